//! What becomes of a task whose attempt failed. Pure.

use std::time::Duration;

use crate::provider::{CredentialError, ProviderError, Retry};
use crate::queue::task::{Outcome, OutcomeKind, TaskError};
use crate::queue::work::ReleaseReason;

/// Pause of a persona after a failed attempt, when the provider named none: doubles from the first
/// to the second bound.
const AGAIN: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(8));
/// Pause after a 429 that names none.
const PATIENCE: Duration = Duration::from_secs(2);
/// Pause after a 429 that names a shorter one, such as `Retry-After: 0` or a date that has passed by
/// this machine's clock: it burns no attempt, so nothing else would keep it from being asked in a loop.
const LEAST: Duration = Duration::from_secs(1);
/// Left of the time to the deadline when a pause is over: else the task might not be taken in time, and
/// its client hear that no worker was free instead of the provider's words.
const TO_BE_TAKEN: Duration = Duration::from_millis(500);

/// What to tell the queue.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// It ends.
    Finish(Outcome),
    /// It waits again.
    Release {
        /// Why.
        reason: ReleaseReason,
        /// When its persona may run again, from now.
        not_before: Duration,
    },
}

/// Where a task stands when its attempt fails.
#[derive(Clone, Copy, Debug)]
pub struct Situation {
    /// This attempt, from 1.
    pub attempt: u32,
    /// Attempts that its persona allows.
    pub max_attempts: u32,
    /// A client has seen a part of the answer: no other one may follow it.
    pub emitted: bool,
    /// Time until its deadline in the queue.
    pub remaining: Duration,
    /// In 0..1, so that tasks that failed together do not come back together.
    pub jitter: f64,
}

impl Verdict {
    /// Hands the task back without a loss.
    pub const fn hand_back() -> Self {
        Self::Release {
            reason: ReleaseReason::Shutdown,
            not_before: Duration::ZERO,
        }
    }

    /// The task ends without an answer.
    pub fn failed(error: TaskError) -> Self {
        Self::Finish(Outcome::ended(OutcomeKind::Failed, error))
    }

    /// Judges a provider's error. The task ends with it when nothing is gained by another attempt:
    /// it would fail again, none is left, or its deadline would pass before one could begin.
    pub fn on(error: &ProviderError, now: Situation) -> Self {
        let again = match retry(error) {
            Retry::Never => None,
            Retry::RateLimit { after } => Some((
                ReleaseReason::RateLimited,
                match after {
                    Some(after) => after.max(now.spread(LEAST)),
                    None => now.spread(PATIENCE),
                },
            )),
            Retry::Attempt { after } => (now.attempt < now.max_attempts).then(|| {
                (
                    ReleaseReason::Failed,
                    after.unwrap_or_default().max(now.backoff()),
                )
            }),
        };
        match again {
            Some((reason, not_before)) if !now.emitted && now.leaves_time_after(not_before) => {
                Self::Release { reason, not_before }
            }
            _ => Self::failed(task_error(error)),
        }
    }
}

/// As the provider's error says, but for a credential that is not there: the lanes say so from now
/// on, and a task that went back would wait for a worker that nobody may ever start.
fn retry(error: &ProviderError) -> Retry {
    match error {
        ProviderError::Credential(CredentialError::Missing { .. }) => Retry::Never,
        _ => error.retry(),
    }
}

impl Situation {
    fn leaves_time_after(&self, pause: Duration) -> bool {
        pause.saturating_add(TO_BE_TAKEN) <= self.remaining
    }

    /// Between half of it and all of it.
    fn spread(&self, longest: Duration) -> Duration {
        longest.mul_f64(0.5 + self.jitter.clamp(0.0, 1.0) / 2.0)
    }

    fn backoff(&self) -> Duration {
        let (least, most) = AGAIN;
        let doublings = self.attempt.saturating_sub(1).min(10);
        self.spread(least.saturating_mul(1 << doublings).min(most))
    }
}

/// A provider's error as the client gets it.
pub fn task_error(error: &ProviderError) -> TaskError {
    TaskError {
        code: error.code(),
        message: error.to_string(),
        http_status: error.http_status(),
        retry_after_ms: error
            .retry_after()
            .map(|wait| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Situation = Situation {
        attempt: 1,
        max_attempts: 3,
        emitted: false,
        remaining: Duration::from_secs(60),
        jitter: 1.0,
    };

    fn limited(after: Option<u64>) -> ProviderError {
        ProviderError::RateLimited {
            message: "slow down".into(),
            retry_after: after.map(Duration::from_secs),
        }
    }

    fn broken() -> ProviderError {
        ProviderError::Broken("reset".into())
    }

    fn released(reason: ReleaseReason, millis: u64) -> Verdict {
        Verdict::Release {
            reason,
            not_before: Duration::from_millis(millis),
        }
    }

    #[test]
    fn a_rate_limit_waits_as_long_as_the_provider_asks_even_in_the_last_attempt() {
        let last = Situation { attempt: 3, ..NOW };
        assert_eq!(
            Verdict::on(&limited(Some(7)), last),
            released(ReleaseReason::RateLimited, 7000)
        );
        assert_eq!(
            Verdict::on(&limited(None), NOW),
            released(ReleaseReason::RateLimited, 2000)
        );
    }

    #[test]
    fn a_provider_that_wants_to_be_asked_again_at_once_is_not() {
        assert_eq!(
            Verdict::on(&limited(Some(0)), NOW),
            released(ReleaseReason::RateLimited, 1000)
        );
        let busy = ProviderError::Failed {
            status: 503,
            message: "busy".into(),
            retry_after: Some(Duration::ZERO),
        };
        assert_eq!(
            Verdict::on(&busy, NOW),
            released(ReleaseReason::Failed, 250)
        );
    }

    #[test]
    fn a_wait_beyond_the_deadline_ends_the_task_with_the_providers_words() {
        let Verdict::Finish(outcome) = Verdict::on(&limited(Some(61)), NOW) else {
            panic!("it waits");
        };
        let error = outcome.error.expect("an error");
        assert_eq!(
            (error.http_status, error.retry_after_ms),
            (429, Some(61_000))
        );
        assert!(error.message.contains("slow down"), "{}", error.message);
    }

    #[test]
    fn a_wait_that_ends_just_before_the_deadline_does_too() {
        for (asked, wait) in [(7, 7000), (0, 1000)] {
            let error = limited(Some(asked));
            let enough = Situation {
                remaining: Duration::from_millis(wait) + TO_BE_TAKEN,
                ..NOW
            };
            let waits = released(ReleaseReason::RateLimited, wait);
            assert_eq!(Verdict::on(&error, enough), waits);
            let scarce = Situation {
                remaining: enough.remaining - Duration::from_millis(1),
                ..NOW
            };
            let ends = Verdict::failed(task_error(&error));
            assert_eq!(Verdict::on(&error, scarce), ends);
        }
    }

    #[test]
    fn failed_attempts_are_repeated_after_growing_pauses_until_none_is_left() {
        assert_eq!(
            Verdict::on(&broken(), NOW),
            released(ReleaseReason::Failed, 250)
        );
        let second = Situation {
            attempt: 2,
            jitter: 0.0,
            ..NOW
        };
        assert_eq!(
            Verdict::on(&broken(), second),
            released(ReleaseReason::Failed, 250)
        );
        let last = Situation { attempt: 3, ..NOW };
        let expected = Verdict::failed(task_error(&broken()));
        assert_eq!(Verdict::on(&broken(), last), expected);
        let late = Situation {
            attempt: u32::MAX - 1,
            max_attempts: u32::MAX,
            ..NOW
        };
        assert_eq!(
            Verdict::on(&broken(), late),
            released(ReleaseReason::Failed, 8000)
        );
    }

    #[test]
    fn after_the_first_token_nothing_is_repeated() {
        let begun = Situation {
            emitted: true,
            ..NOW
        };
        for error in [broken(), limited(Some(1))] {
            assert!(
                matches!(Verdict::on(&error, begun), Verdict::Finish(_)),
                "{error}"
            );
        }
    }

    #[test]
    fn what_would_fail_again_and_a_missing_credential_end_at_once() {
        let missing = CredentialError::Missing {
            secret: "openai".into(),
            key: "api-key".into(),
        };
        for error in [
            ProviderError::Unauthorized(401),
            ProviderError::Credential(missing),
        ] {
            assert!(
                matches!(Verdict::on(&error, NOW), Verdict::Finish(_)),
                "{error}"
            );
        }
    }
}
