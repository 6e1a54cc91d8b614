//! Jumps of the queue's clock, by which leases end. Workers renew theirs every few seconds: after a jump
//! all of them look over until each has done so once more.

use std::time::Duration;

use tokio::time::Instant;

use crate::controller::{Context, Error};

/// Most that two clocks may go apart from one look to the next. Far below what is left of a lease when it
/// is renewed.
const TOLERANCE: Duration = Duration::from_secs(2);

/// A look at the queue's clock: it showed the time at some moment between question and answer.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    /// Our clock before the question.
    pub asked: Instant,
    /// Our clock after the answer.
    pub answered: Instant,
    /// The queue's clock, in ms since the epoch.
    pub queue_ms: u64,
}

impl Look {
    /// By how many ms at least the queue's clock has jumped since a look before, forwards or (negative)
    /// backwards; none while it may have gone as ours. A question or answer that took long proves nothing.
    pub fn jump_since(&self, before: &Self) -> Option<i64> {
        let went = millis(self.queue_ms) - millis(before.queue_ms);
        let span = |from: Instant, to: Instant| {
            let time = to.saturating_duration_since(from).as_millis();
            i64::try_from(time).unwrap_or(i64::MAX)
        };
        let most = span(before.asked, self.answered);
        let least = span(before.answered, self.asked);
        let jump = went.saturating_sub(went.clamp(least, most));
        (Duration::from_millis(jump.unsigned_abs()) > TOLERANCE).then_some(jump)
    }

    /// The most that the queue's clock can show at that moment of ours, unless it jumps.
    pub fn at_most(&self, now: Instant) -> u64 {
        let went = now.saturating_duration_since(self.asked).as_millis();
        self.queue_ms
            .saturating_add(u64::try_from(went).unwrap_or(u64::MAX))
    }
}

fn millis(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Looks at the queue's clock, and has the contact begin anew if it has jumped. Answers what it shows.
///
/// # Errors
/// When the queue gives no answer.
pub async fn look(cx: &Context) -> Result<u64, Error> {
    let asked = Instant::now();
    let queue_ms = cx.queue.now_ms().await?;
    cx.contact.saw_clock(Look {
        asked,
        answered: Instant::now(),
        queue_ms,
    });
    Ok(queue_ms)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::contact::Contact;
    use crate::queue::work::LEASE;

    const NOON: u64 = 1_800_000_000_000;

    /// A look that took so long, so many ms after `begun`, at a clock that is ahead by so many ms.
    fn look(begun: Instant, at: u64, took: u64, ahead: i64) -> Look {
        let asked = begun + Duration::from_millis(at);
        Look {
            asked,
            answered: asked + Duration::from_millis(took),
            queue_ms: (NOON + at).saturating_add_signed(ahead),
        }
    }

    #[test]
    fn clocks_that_go_alike_or_nearly_so_have_not_jumped() {
        let begun = Instant::now();
        let first = look(begun, 0, 3, 0);
        for (at, took, ahead) in [(1000, 3, 0), (1000, 3, 1900), (1000, 3, -1900), (0, 0, 0)] {
            let next = look(begun, at, took, ahead);
            assert_eq!(next.jump_since(&first), None, "{next:?}");
        }
    }

    #[test]
    fn a_jump_is_told_with_its_direction() {
        let begun = Instant::now();
        let first = look(begun, 0, 0, 0);
        let hour = 3_600_000;
        for jump in [2500, -2500, 16_000, hour, -hour] {
            let next = look(begun, 1000, 0, jump);
            assert_eq!(next.jump_since(&first), Some(jump));
        }
    }

    #[test]
    fn a_look_that_took_long_proves_no_jump() {
        let begun = Instant::now();
        let first = look(begun, 0, 0, 0);
        // The answer was written 18 s after the question and read at once, or the other way round.
        let late = look(begun, 1000, 18_000, 18_000);
        assert_eq!(late.jump_since(&first), None);
        let slow = look(begun, 0, 18_000, 0);
        assert_eq!(look(begun, 19_000, 0, 0).jump_since(&slow), None);
        let beyond = look(begun, 1000, 18_000, 21_000);
        assert_eq!(beyond.jump_since(&first), Some(3000));
    }

    #[test]
    fn a_loss_is_told_with_the_most_that_the_clock_can_show_when_it_is_heard() {
        let begun = Instant::now();
        let look = look(begun, 0, 30, 0);
        assert_eq!(look.at_most(begun + Duration::from_millis(500)), NOON + 500);
        assert_eq!(look.at_most(look.asked), NOON);
    }

    #[test]
    fn after_a_jump_nothing_is_reaped_for_one_lease() {
        let contact = Contact::default();
        let begun = Instant::now();
        let at = |ms| begun + Duration::from_millis(ms);
        let lease = u64::try_from(LEASE.as_millis()).expect("short");
        contact.state().since = Some(begun);
        contact.saw_clock(look(begun, 0, 0, 0));
        contact.saw_clock(look(begun, lease, 0, 0));
        assert!(contact.reaps(at(lease)));
        contact.saw_clock(look(begun, lease + 1000, 0, 20_000));
        assert!(!contact.reaps(at(lease + 1000)) && contact.usable().is_ok());
        // It has not jumped again, but the lease is not over.
        contact.saw_clock(look(begun, 2 * lease, 0, 20_000));
        assert!(!contact.reaps(at(2 * lease)));
        contact.saw_clock(look(begun, 2 * lease + 1000, 0, 20_000));
        assert!(contact.reaps(at(2 * lease + 1000)));
    }
}
