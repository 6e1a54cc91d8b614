//! Reads server-sent events as they come.

use std::pin::Pin;

use eventsource_stream::Eventsource;
use futures::{Stream, StreamExt};
use reqwest::Response;
use serde_json::Value;

use crate::stage::soon;

/// One event of a streamed answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// JSON.
    Data(Value),
    /// `[DONE]`.
    Done,
    /// The body ended in good order.
    End,
    /// The connection broke.
    Broken,
}

pub struct Events(Pin<Box<dyn Stream<Item = Event> + Send>>);

impl Events {
    pub fn of(response: Response) -> Self {
        assert_eq!(response.status(), 200);
        let events = response.bytes_stream().eventsource().map(|event| {
            let Ok(event) = event else {
                return Event::Broken;
            };
            match event.data.as_str() {
                "[DONE]" => Event::Done,
                data => Event::Data(serde_json::from_str(data).expect("JSON")),
            }
        });
        Self(Box::pin(events))
    }

    pub async fn next(&mut self) -> Event {
        soon("an event", self.0.next()).await.unwrap_or(Event::End)
    }

    pub async fn data(&mut self) -> Value {
        match self.next().await {
            Event::Data(value) => value,
            other => panic!("no data: {other:?}"),
        }
    }

    /// Text of the next event; the event with the role has none.
    pub async fn text(&mut self) -> String {
        let event = self.data().await;
        let text = event["choices"][0]["delta"]["content"].as_str();
        text.unwrap_or_else(|| panic!("no text: {event}"))
            .to_owned()
    }

    /// All that is left: the text put together, and the events that are none.
    pub async fn rest(mut self) -> (String, Vec<Event>) {
        let (mut text, mut others) = (String::new(), Vec::new());
        loop {
            match self.next().await {
                Event::End => return (text, others),
                Event::Data(event) if event["choices"][0]["delta"]["content"].is_string() => {
                    text.push_str(
                        event["choices"][0]["delta"]["content"]
                            .as_str()
                            .unwrap_or(""),
                    );
                }
                other => {
                    let broken = other == Event::Broken;
                    others.push(other);
                    if broken {
                        return (text, others);
                    }
                }
            }
        }
    }
}

/// Asserts that a stream ends in one error of this code and nothing after it.
pub async fn ends_in_error(events: Events, code: &str) -> String {
    let (text, others) = events.rest().await;
    let [Event::Data(error)] = others.as_slice() else {
        panic!("one error is expected: {others:?}");
    };
    assert_eq!(error["error"]["code"], code, "{error}");
    text
}

/// Asserts that a stream ends as an answer does.
pub async fn ends_well(events: Events) -> String {
    let (text, others) = events.rest().await;
    let [Event::Data(last), Event::Done] = others.as_slice() else {
        panic!("a reason and [DONE] are expected: {others:?}");
    };
    assert_eq!(last["choices"][0]["finish_reason"], "stop", "{last}");
    text
}
