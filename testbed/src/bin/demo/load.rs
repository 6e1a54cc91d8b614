//! Requests, many at once, each answered or the demo ends.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::Result;
use futures::future::try_join_all;
use testbed::Chat;

use crate::voice::{Unmet, check};

/// Counts of requests while they are answered.
#[derive(Debug, Default)]
pub struct Tally {
    sent: AtomicUsize,
    answered: AtomicUsize,
    stop: AtomicBool,
}

impl Tally {
    pub fn sent(&self) -> usize {
        self.sent.load(Ordering::Relaxed)
    }

    pub fn answered(&self) -> usize {
        self.answered.load(Ordering::Relaxed)
    }

    /// No new requests from here on.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    async fn ask(&self, chat: &Chat, persona: &str, text: &str) -> Result<()> {
        self.sent.fetch_add(1, Ordering::Relaxed);
        let answer = chat.answer(persona, text).await;
        let expected = "each request is answered, with text";
        let answer = answer.map_err(|error| Unmet::new(expected, format!("{error:#}")))?;
        check(
            !answer.trim().is_empty(),
            expected,
            format!("{persona} said {answer:?}"),
        )?;
        self.answered.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

/// Asks `count` times, all at once.
///
/// # Errors
/// [`Unmet`]: a request was not answered.
pub async fn burst(chat: &Chat, persona: &str, count: usize, tally: &Tally) -> Result<()> {
    let ask = async |number: usize| {
        let text = format!("Say something about the number {number}.");
        tally.ask(chat, persona, &text).await
    };
    try_join_all((1..=count).map(ask)).await.map(drop)
}

/// Asks `personas` in turn until the tally is stopped, `clients` requests at a time.
///
/// # Errors
/// [`Unmet`]: a request was not answered.
pub async fn steady(chat: &Chat, personas: &[String], clients: usize, tally: &Tally) -> Result<()> {
    let client = async |first: usize| {
        let mut turns = personas.iter().cycle().skip(first).step_by(clients);
        while tally.goes_on() {
            let Some(persona) = turns.next() else { break };
            tally.ask(chat, persona, "Who are you?").await?;
        }
        anyhow::Ok(())
    };
    try_join_all((0..clients).map(client)).await.map(drop)
}
