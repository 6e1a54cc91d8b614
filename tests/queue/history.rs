//! What clients saw, and what can be concluded from it. A client hears of a take after it happened
//! and ends a task before that happens: so what it saw is never more than what was.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use persona_operator::queue::work::Taken;
use tokio::time::Instant;

#[derive(Clone, Default)]
pub struct History(Arc<Mutex<Seen>>);

#[derive(Default)]
struct Seen {
    /// Of each task's takes: when the first was asked for, when the first had come.
    first: HashMap<String, (Instant, Instant)>,
    spans: Vec<Span>,
    finishes: HashMap<String, usize>,
}

/// A time in which a worker held a task for sure.
pub struct Span {
    task: String,
    persona: String,
    from: Instant,
    to: Instant,
}

impl Span {
    /// From the answer of take until now, before it is handed in.
    pub fn new(task: &Taken, got: Instant) -> Self {
        Self {
            task: task.task.clone(),
            persona: task.persona.clone(),
            from: got,
            to: Instant::now(),
        }
    }
}

impl History {
    pub fn taken(&self, task: &Taken, asked: Instant, got: Instant) {
        let mut seen = self.0.lock().expect("seen");
        let first = seen.first.entry(task.task.clone()).or_insert((asked, got));
        *first = (first.0.min(asked), first.1.min(got));
    }

    /// A task was handed in and the fence was good.
    pub fn held(&self, span: Span, finished: bool) {
        let mut seen = self.0.lock().expect("seen");
        *seen.finishes.entry(span.task.clone()).or_default() += usize::from(finished);
        seen.spans.push(span);
    }

    pub fn finishes(&self, task: &str) -> usize {
        let seen = self.0.lock().expect("seen");
        seen.finishes.get(task).copied().unwrap_or_default()
    }

    /// No task was taken for the first time before an earlier one of its persona was even asked for.
    /// `accepted` is in the order in which one client put them in: persona and task.
    pub fn check_order(&self, accepted: &[(usize, String)]) {
        let seen = self.0.lock().expect("seen");
        let mut latest: HashMap<usize, (Instant, &str)> = HashMap::new();
        for (persona, task) in accepted {
            let Some((asked, got)) = seen.first.get(task) else {
                continue; // cancelled while it waited
            };
            if let Some((before, earlier)) = latest.get(persona) {
                assert!(got >= before, "{task} was taken before {earlier}");
            }
            let entry = latest.entry(*persona).or_insert((*asked, task));
            if *asked > entry.0 {
                *entry = (*asked, task);
            }
        }
    }

    /// Never more tasks of a persona at once than it allows, and no task twice at once.
    pub fn check_overlap(&self, most: impl Fn(&str) -> u32) {
        let seen = self.0.lock().expect("seen");
        let mut edges: Vec<(Instant, i32, &Span)> = Vec::new();
        for span in &seen.spans {
            edges.push((span.from, 1, span));
            edges.push((span.to, -1, span));
        }
        // What ends in the same moment as another begins does not overlap it.
        edges.sort_by_key(|(at, change, _)| (*at, *change));
        let (mut personas, mut tasks) = (HashMap::new(), HashMap::new());
        for (_, change, span) in edges {
            let of_task: &mut i32 = tasks.entry(span.task.as_str()).or_default();
            *of_task += change;
            assert!(*of_task <= 1, "{} is held twice at once", span.task);
            let of_persona: &mut i32 = personas.entry(span.persona.as_str()).or_default();
            *of_persona += change;
            let allowed = i32::try_from(most(&span.persona)).expect("few");
            assert!(
                *of_persona <= allowed,
                "{of_persona} of {} at once",
                span.persona
            );
        }
    }
}
