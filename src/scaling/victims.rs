//! Which workers go when a pool has too many.

/// A worker that could go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Pod uid.
    pub uid: String,
    /// A node was found for its pod.
    pub scheduled: bool,
    /// Its pod is Ready.
    pub ready: bool,
    /// Made from a template that is not the pool's any more.
    pub outdated: bool,
    /// Requests it answers, direct calls included.
    pub running: u32,
    /// When it last began or ended a request, ms of Redis' clock; 0 = never.
    pub active_at_ms: u64,
}

impl Candidate {
    /// Smaller goes first: unscheduled, not ready, idle, fewest requests; of equals the older
    /// template, then who has been idle the longest. The uid makes it the same answer every time.
    fn rank(&self) -> (bool, bool, u32, bool, u64, &str) {
        (
            self.scheduled,
            self.ready,
            self.running,
            !self.outdated,
            self.active_at_ms,
            &self.uid,
        )
    }
}

/// Uids of the `count` workers that are missed least (autoscaling.md, "Which one goes").
pub fn victims(mut candidates: Vec<Candidate>, count: usize) -> Vec<String> {
    candidates.sort_by(|a, b| a.rank().cmp(&b.rank()));
    candidates.truncate(count);
    candidates.into_iter().map(|c| c.uid).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn worker(uid: &str) -> Candidate {
        Candidate {
            uid: uid.into(),
            scheduled: true,
            ready: true,
            outdated: false,
            running: 0,
            active_at_ms: 0,
        }
    }

    #[test]
    fn unscheduled_then_not_ready_then_idle_then_least_busy() {
        let all = vec![
            Candidate {
                running: 3,
                ..worker("busy")
            },
            Candidate {
                running: 1,
                ..worker("less-busy")
            },
            worker("idle"),
            Candidate {
                ready: false,
                ..worker("not-ready")
            },
            Candidate {
                ready: false,
                scheduled: false,
                ..worker("unscheduled")
            },
        ];
        assert_eq!(
            victims(all, 5),
            ["unscheduled", "not-ready", "idle", "less-busy", "busy"]
        );
    }

    #[test]
    fn of_equals_the_older_template_goes_first() {
        let all = vec![
            Candidate {
                active_at_ms: 1,
                ..worker("idle-long")
            },
            Candidate {
                active_at_ms: 9,
                outdated: true,
                ..worker("outdated")
            },
            Candidate {
                active_at_ms: 5,
                ..worker("idle-short")
            },
        ];
        assert_eq!(victims(all, 3), ["outdated", "idle-long", "idle-short"]);
    }

    proptest! {
        #[test]
        fn no_busy_worker_goes_while_an_idle_one_stays(
            loads in proptest::collection::vec(0u32..4, 1..40), count in 0usize..40
        ) {
            let all: Vec<_> = loads
                .iter()
                .enumerate()
                .map(|(n, running)| Candidate { running: *running, ..worker(&format!("w{n}")) })
                .collect();
            let gone = victims(all.clone(), count);
            prop_assert_eq!(gone.len(), count.min(all.len()));
            let busy_goes = all.iter().any(|w| w.running > 0 && gone.contains(&w.uid));
            let idle_stays = all.iter().any(|w| w.running == 0 && !gone.contains(&w.uid));
            prop_assert!(!(busy_goes && idle_stays));
        }
    }
}
