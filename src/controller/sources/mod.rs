//! Numbers from elsewhere that a pool's size follows: Prometheus and RabbitMQ, asked once a second.
//!
//! Who may ask whom as whom is the operator's owner's to say, not a pool's: a credential goes only to
//! the address that it was made for ([`credentials`]).

mod credentials;
mod http;

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use kube::ResourceExt;
use serde_json::Value;
use tokio::time::{Instant, interval};
use tokio_util::sync::CancellationToken;

use self::credentials::Credentials;
use self::http::Client;
use super::Context;
use super::observer::PoolKey;
use crate::api::{MetricSource, MetricType, WorkerPool};
use crate::lock::lock;
use crate::scaling::Reading;

/// Time between two questions.
const EVERY: Duration = Duration::from_secs(1);
/// An answer older than this is none.
const STALE: Duration = Duration::from_secs(15);
/// Questions at once.
const PARALLEL: usize = 64;
/// Of them, of one namespace.
const OF_NAMESPACE: usize = 16;
/// Room that is kept for namespaces with few under way, and how many few are: four namespaces whose servers
/// do not answer would take it all.
const SPARE: usize = 16;
const FEW: usize = 2;

/// A source of a pool: its place in `spec.scaling.metrics`, and what is asked.
type Key = (PoolKey, usize, MetricSource);
/// The number, or why there is none.
type Answer = Result<f64, String>;

/// What was asked, the answer, and when it came; by pool and place in its spec.
type Answers = HashMap<(PoolKey, usize), (MetricSource, Answer, Instant)>;

/// The latest answers.
pub struct Sources {
    answers: Mutex<Answers>,
    credentials: PathBuf,
}

impl Sources {
    /// Credentials are files of `folder`, which need not exist.
    pub fn new(folder: PathBuf) -> Self {
        Self {
            answers: Mutex::default(),
            credentials: folder,
        }
    }

    /// What is known of a pool's external metrics, in the order of its spec.
    pub fn readings(&self, pool: &WorkerPool) -> Vec<Reading> {
        let key = key_of(pool);
        let answers = self.lock();
        let metrics = pool.spec.scaling.metrics.iter().enumerate();
        metrics
            .filter(|(_, metric)| metric.type_ != MetricType::Queue)
            .map(|(place, metric)| {
                let name = name(metric);
                match answers.get(&(key.clone(), place)) {
                    Some((asked, answer, at)) if asked == metric && at.elapsed() < STALE => {
                        match answer {
                            Ok(value) => Reading::External {
                                name,
                                value: *value,
                                target: target(metric),
                            },
                            Err(why) => Reading::Failed {
                                name,
                                why: why.clone(),
                            },
                        }
                    }
                    _ => Reading::Failed {
                        name,
                        why: "not asked yet".to_owned(),
                    },
                }
            })
            .collect()
    }

    /// Whether each of the pool's metrics has been asked for once. Before that nothing is known of it, not
    /// even that it cannot be read.
    pub fn have_asked(&self, pool: &WorkerPool) -> bool {
        let key = key_of(pool);
        let answers = self.lock();
        let metrics = pool.spec.scaling.metrics.iter().enumerate();
        let mut elsewhere = metrics.filter(|(_, metric)| metric.type_ != MetricType::Queue);
        elsewhere.all(|(place, metric)| {
            let known = answers.get(&(key.clone(), place));
            known.is_some_and(|(asked, ..)| asked == metric)
        })
    }

    /// Notes an answer; whether it differs from the one before.
    fn note(&self, (key, place, metric): Key, answer: Answer) -> bool {
        let entry = (metric.clone(), answer.clone(), Instant::now());
        match self.lock().insert((key, place), entry) {
            Some((before, known, _)) => before != metric || known != answer,
            None => true,
        }
    }

    fn keep(&self, wanted: &[Key]) {
        let known: HashSet<_> = wanted.iter().map(|(key, place, _)| (key, place)).collect();
        self.lock()
            .retain(|(key, place), _| known.contains(&(key, place)));
    }

    fn lock(&self) -> MutexGuard<'_, Answers> {
        lock(&self.answers)
    }
}

/// Asks until `stop`; a pool is woken by an answer that differs. Each question is on its own, so that
/// servers that do not answer hold up no others, and no namespace takes all the room.
pub async fn run(cx: Arc<Context>, stop: CancellationToken) {
    let client = match Client::new() {
        Ok(client) => client,
        Err(error) => {
            tracing::error!(%error, "no HTTP client: metrics from elsewhere cannot be asked for");
            return;
        }
    };
    let mut tick = interval(EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut asking = FuturesUnordered::new();
    let mut asked = Asked::default();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {
                let wanted = wanted(&cx);
                cx.sources.keep(&wanted);
                let due = asked.due(wanted, Instant::now());
                if due.is_empty() {
                    continue;
                }
                let credentials = Arc::new(Credentials::read(&cx.sources.credentials));
                for key in due {
                    let (client, credentials) = (&client, credentials.clone());
                    asking.push(async move {
                        let answer = ask(client, &credentials, &key.2).await;
                        (key, answer)
                    });
                }
            }
            Some((key, answer)) = asking.next() => {
                let (namespace, pool) = key.0.clone();
                asked.answered(&key);
                if cx.sources.note(key, answer) {
                    cx.bells.pool(&namespace, &pool).await;
                }
            }
        }
    }
}

/// When each source was last asked, and which have not answered yet.
#[derive(Default)]
struct Asked {
    at: HashMap<(PoolKey, usize), Instant>,
    under_way: HashSet<(PoolKey, usize)>,
}

impl Asked {
    /// Those of `wanted` to ask now, one of each namespace after the other, of which those with few under
    /// way come first; of a namespace not asked yet, then longest ago.
    fn due(&mut self, mut wanted: Vec<Key>, now: Instant) -> Vec<Key> {
        let known: HashSet<_> = wanted.iter().map(place).collect();
        self.at.retain(|key, _| known.contains(key));
        wanted.retain(|key| !self.under_way.contains(&place(key)));
        wanted.sort_by_key(|key| self.at.get(&place(key)).copied());
        let mut of_namespace: HashMap<String, usize> = HashMap::new();
        for ((namespace, _), _) in &self.under_way {
            *of_namespace.entry(namespace.clone()).or_default() += 1;
        }
        // How many of its namespace are under way before each.
        let mut wanted: Vec<_> = wanted
            .into_iter()
            .map(|key| {
                let count = of_namespace.entry(key.0.0.clone()).or_default();
                *count += 1;
                (*count - 1, key)
            })
            .collect();
        wanted.sort_by_key(|(before, key)| (*before, self.at.get(&place(key)).copied()));
        let mut due = Vec::new();
        for (before, key) in wanted {
            let room = if before < FEW {
                PARALLEL
            } else {
                PARALLEL - SPARE
            };
            if self.under_way.len() >= room || before >= OF_NAMESPACE {
                continue;
            }
            self.under_way.insert(place(&key));
            self.at.insert(place(&key), now);
            due.push(key);
        }
        due
    }

    fn answered(&mut self, key: &Key) {
        self.under_way.remove(&place(key));
    }
}

fn place(key: &Key) -> (PoolKey, usize) {
    (key.0.clone(), key.1)
}

fn wanted(cx: &Context) -> Vec<Key> {
    let pools = cx.stores.pools.state();
    pools
        .iter()
        .flat_map(|pool| {
            let metrics = pool.spec.scaling.metrics.iter().enumerate();
            metrics
                .filter(|(_, metric)| metric.type_ != MetricType::Queue)
                .map(|(place, metric)| (key_of(pool), place, metric.clone()))
                .collect::<Vec<_>>()
        })
        .collect()
}

fn key_of(pool: &WorkerPool) -> PoolKey {
    (pool.namespace().unwrap_or_default(), pool.name_any())
}

/// For people: which source, and what of it.
fn name(metric: &MetricSource) -> String {
    match (&metric.prometheus, &metric.rabbitmq) {
        (Some(prometheus), _) => format!("Prometheus {}", prometheus.query),
        (_, Some(rabbit)) => format!("RabbitMQ queue {}", rabbit.queue),
        _ => format!("{:?}", metric.type_),
    }
}

fn target(metric: &MetricSource) -> f64 {
    let prometheus = metric.prometheus.as_ref().map(|metric| metric.target);
    let rabbit = metric.rabbitmq.as_ref().map(|metric| metric.target);
    prometheus.or(rabbit).unwrap_or(1.0)
}

async fn ask(client: &Client, credentials: &Credentials, metric: &MetricSource) -> Answer {
    if let Some(prometheus) = &metric.prometheus {
        let address = &prometheus.server_address;
        let path = ["api", "v1", "query"];
        let query = [("query", prometheus.query.as_str())];
        let answer = client.get(credentials, address, &path, &query).await?;
        return prometheus_value(&answer);
    }
    if let Some(rabbit) = &metric.rabbitmq {
        let address = &rabbit.management_address;
        let path = ["api", "queues", &rabbit.vhost, &rabbit.queue];
        let answer = client.get(credentials, address, &path, &[]).await?;
        return rabbit_value(&answer);
    }
    Err("the metric names no source".to_owned())
}

/// The number of an instant query: a scalar, or a vector of one sample. Two samples are no answer,
/// because nobody knows which was meant; none is 0 waiting jobs for who asks for a sum, but for others
/// a typing error, so that it is no answer either.
fn prometheus_value(answer: &Value) -> Answer {
    if answer["status"] != "success" {
        let words = answer["error"].as_str().unwrap_or("no reason given");
        return Err(format!("the query failed: {}", clip(words)));
    }
    let result = &answer["data"]["result"];
    let sample = match answer["data"]["resultType"].as_str() {
        Some("scalar") => result,
        Some("vector") => match result.as_array().map(Vec::as_slice) {
            Some([one]) => &one["value"],
            Some([]) => {
                return Err(
                    "the query found nothing: if that means 0, append `or vector(0)`".to_owned(),
                );
            }
            Some(many) => {
                let count = many.len();
                return Err(format!("the query found {count} series: wrap it in sum()"));
            }
            None => return Err("the answer is not understood".to_owned()),
        },
        _ => return Err("the query is no number: use an instant vector or a scalar".to_owned()),
    };
    let value: Option<f64> = sample[1].as_str().and_then(|text| text.parse().ok());
    value
        .filter(|value| value.is_finite())
        .ok_or_else(|| "the query's value is no number".to_owned())
}

/// Ready and unacknowledged messages: what is being worked on still needs its worker.
fn rabbit_value(answer: &Value) -> Answer {
    answer["messages"].as_f64().ok_or_else(|| {
        "the answer has no messages: the queue's statistics are off, or just begun".to_owned()
    })
}

fn clip(words: &str) -> String {
    words.chars().take(300).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn vector(values: &[&str]) -> Value {
        let samples = values
            .iter()
            .map(|value| json!({"metric": {}, "value": [1.5, value]}));
        let samples: Vec<_> = samples.collect();
        json!({"status": "success", "data": {"resultType": "vector", "result": samples}})
    }

    fn key(namespace: &str, place: usize) -> Key {
        let metric = json!({"type": "Prometheus"});
        let metric = serde_json::from_value(metric).expect("a metric");
        ((namespace.to_owned(), "p".to_owned()), place, metric)
    }

    #[test]
    fn many_namespaces_whose_servers_do_not_answer_make_no_answer_of_another_stale() {
        let all = || -> Vec<Key> {
            let dead = (0..400).map(|place| key(&format!("dead-{}", place % 5), place));
            dead.chain([key("alive", 0)]).collect()
        };
        let (mut asked, begun) = (Asked::default(), Instant::now());
        let mut waiting: Vec<(Key, Instant)> = Vec::new();
        let mut alive = Vec::new();
        for second in 0..60 {
            let now = begun + EVERY * second;
            waiting.retain(|(key, since)| {
                let silent = now < *since + Duration::from_secs(3);
                if !silent {
                    asked.answered(key);
                }
                silent
            });
            for key in asked.due(all(), now) {
                if key.0.0 == "alive" {
                    asked.answered(&key);
                    alive.push(second);
                } else {
                    waiting.push((key, now));
                }
            }
        }
        let longest = alive.windows(2).map(|pair| pair[1] - pair[0]).max();
        assert!(longest < Some(5) && alive.len() > 12, "{alive:?}");
        let starved = (0..400).filter(|place| {
            let known = asked.at.keys().any(|(_, asked)| asked == place);
            !known
        });
        assert_eq!(
            starved.count(),
            0,
            "the others are asked too, in their turn"
        );
    }

    #[test]
    fn servers_that_do_not_answer_hold_up_no_other_namespace() {
        let all = || -> Vec<Key> {
            let dead = (0..80).map(|place| key("dead", place));
            dead.chain([key("alive", 0)]).collect()
        };
        let (mut asked, begun) = (Asked::default(), Instant::now());
        let first = asked.due(all(), begun);
        assert_eq!(first.len(), OF_NAMESPACE + 1);
        let alive = first.iter().find(|key| key.0.0 == "alive").expect("asked");
        asked.answered(alive);
        let again = asked.due(all(), begun + EVERY);
        let names: Vec<_> = again.iter().map(|key| &*key.0.0).collect();
        assert_eq!(names, ["alive"], "the others still wait for their answers");
        for key in &first[..2] {
            asked.answered(key);
        }
        let next = asked.due(all(), begun + EVERY * 2);
        let of_dead = next.iter().filter(|key| key.0.0 == "dead");
        assert!(
            of_dead.clone().all(|key| !first.contains(key)) && of_dead.count() > 0,
            "those that were not asked yet come first"
        );
    }

    #[test]
    fn one_number_is_an_answer_and_anything_else_says_what_to_do() {
        assert_eq!(prometheus_value(&vector(&["7.5"])), Ok(7.5));
        let scalar =
            json!({"status": "success", "data": {"resultType": "scalar", "result": [1, "3"]}});
        assert_eq!(prometheus_value(&scalar), Ok(3.0));
        for (answer, words) in [
            (vector(&[]), "or vector(0)"),
            (vector(&["1", "2"]), "sum()"),
            (vector(&["NaN"]), "no number"),
            (
                json!({"status": "error", "error": "parse error"}),
                "parse error",
            ),
            (
                json!({"status": "success", "data": {"resultType": "string"}}),
                "instant vector",
            ),
            (json!([]), "no reason"),
        ] {
            let said = prometheus_value(&answer).expect_err(words);
            assert!(said.contains(words), "{said}");
        }
    }

    #[test]
    fn messages_that_are_worked_on_count_too() {
        let queue = json!({"messages": 12, "messages_ready": 5});
        assert_eq!(rabbit_value(&queue), Ok(12.0));
        assert!(rabbit_value(&json!({"name": "q"})).is_err());
    }
}
