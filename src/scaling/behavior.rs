//! How fast a size may change: the behavior of HorizontalPodAutoscaler autoscaling/v2.
//!
//! Names and meaning are those of Kubernetes (pkg/controller/podautoscaler/horizontal.go:
//! `stabilizeRecommendationWithBehaviors`, `convertDesiredReplicasWithBehaviorRate`), with one
//! difference. The HPA looks at fixed times and counts a recommendation as of one of them; here looks
//! come when something changes, so a recommendation holds until the next one.

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::time::Duration;

use jiff::Timestamp;

use crate::api::{
    Behavior, PolicyType, ScalingPolicy, ScalingRules, SelectPolicy, Span, WorkerPoolSpec,
};

/// Longest period of a policy, in seconds.
const LONGEST_PERIOD: u64 = 1800;

/// The rules of one direction, with the defaults in place of what is unset.
#[derive(Clone, Debug, PartialEq)]
pub struct Rules {
    /// How far back recommendations count.
    pub window: Duration,
    /// The user has set the window.
    pub is_own_window: bool,
    /// Relative change below which nothing is done.
    pub tolerance: f64,
    policies: Vec<ScalingPolicy>,
    select: SelectPolicy,
}

impl Rules {
    /// Growing: at once, to ten times the size or by 100 workers a second.
    pub fn up(spec: &WorkerPoolSpec) -> Self {
        let given = spec.scaling.behavior.as_ref().and_then(up);
        let policies = [
            policy(PolicyType::Percent, 900, 1),
            policy(PolicyType::Pods, 100, 1),
        ];
        Self::with_defaults(given, Duration::ZERO, 0.0, policies.to_vec())
    }

    /// Shrinking: to what was needed within idleTimeout, not for less than a tenth.
    pub fn down(spec: &WorkerPoolSpec) -> Self {
        let given = spec.scaling.behavior.as_ref().and_then(down);
        let policies = [policy(PolicyType::Percent, 100, 15)];
        Self::with_defaults(given, spec.idle_timeout.into(), 0.1, policies.to_vec())
    }

    fn with_defaults(
        given: Option<&ScalingRules>,
        window: Duration,
        tolerance: f64,
        policies: Vec<ScalingPolicy>,
    ) -> Self {
        let seconds = given.and_then(|rules| rules.stabilization_window_seconds);
        let own = given.map(|rules| rules.policies.clone());
        Self {
            is_own_window: seconds.is_some(),
            window: seconds.map_or(window, |s| Duration::from_secs(s.into())),
            tolerance: given.and_then(|rules| rules.tolerance).unwrap_or(tolerance),
            policies: own.filter(|own| !own.is_empty()).unwrap_or(policies),
            select: given
                .and_then(|rules| rules.select_policy)
                .unwrap_or(SelectPolicy::Max),
        }
    }

    /// The user wants no change in this direction.
    pub fn is_disabled(&self) -> bool {
        self.select == SelectPolicy::Disabled
    }

    /// The largest size that a pool of `size` may have now. The first worker is beside the policies, as
    /// KEDA's activation is: a percentage of none would be none for ever.
    pub fn ceiling(&self, now: Timestamp, size: u32, changes: &Changes) -> u32 {
        let proposals = self.proposals(now, size, changes, |start, policy| match policy.type_ {
            PolicyType::Pods => start + f64::from(policy.value),
            PolicyType::Percent => (start * (1.0 + f64::from(policy.value) / 100.0)).ceil(),
        });
        let limit = match self.select {
            SelectPolicy::Disabled => None,
            SelectPolicy::Max => proposals.max(),
            SelectPolicy::Min => proposals.min(),
        };
        limit.map_or(size, |limit| whole(limit).max(size).max(1))
    }

    /// The smallest size that a pool of `size` may have now.
    pub fn floor(&self, now: Timestamp, size: u32, changes: &Changes) -> u32 {
        let proposals = self.proposals(now, size, changes, |start, policy| match policy.type_ {
            PolicyType::Pods => start - f64::from(policy.value),
            PolicyType::Percent => (start * (1.0 - f64::from(policy.value) / 100.0)).trunc(),
        });
        let limit = match self.select {
            SelectPolicy::Disabled => None,
            SelectPolicy::Max => proposals.min(),
            SelectPolicy::Min => proposals.max(),
        };
        limit.map_or(size, |limit| whole(limit).min(size))
    }

    /// What each policy allows, from the size that the pool had when its period began.
    fn proposals<'a>(
        &'a self,
        now: Timestamp,
        size: u32,
        changes: &'a Changes,
        proposal: impl Fn(f64, &ScalingPolicy) -> f64 + 'a,
    ) -> impl Iterator<Item = i64> + 'a {
        self.policies.iter().map(move |policy| {
            let period = Duration::from_secs(policy.period_seconds.into());
            let start = i64::from(size) - changes.within(now, period);
            proposal(start as f64, policy) as i64
        })
    }

    /// When the policies allow more than they do now.
    pub fn eases_at(&self, now: Timestamp, changes: &Changes) -> Option<Timestamp> {
        if self.is_disabled() {
            return None;
        }
        let periods = self.policies.iter();
        periods
            .filter_map(|policy| {
                changes.leave(now, Duration::from_secs(policy.period_seconds.into()))
            })
            .min()
    }
}

fn up(behavior: &Behavior) -> Option<&ScalingRules> {
    behavior.scale_up.as_ref()
}

fn down(behavior: &Behavior) -> Option<&ScalingRules> {
    behavior.scale_down.as_ref()
}

const fn policy(type_: PolicyType, value: u32, period_seconds: u32) -> ScalingPolicy {
    ScalingPolicy {
        type_,
        value,
        period_seconds,
    }
}

fn whole(size: i64) -> u32 {
    u32::try_from(size.max(0)).unwrap_or(u32::MAX)
}

/// Changes of size that policies look back on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes(VecDeque<(Timestamp, i64)>);

impl Changes {
    /// Notes a change, in order of time.
    pub fn note(&mut self, at: Timestamp, from: u32, to: u32) {
        if from != to {
            self.0.push_back((at, i64::from(to) - i64::from(from)));
        }
        while self
            .0
            .front()
            .is_some_and(|(then, _)| after(*then, Duration::from_secs(LONGEST_PERIOD)) < at)
        {
            self.0.pop_front();
        }
    }

    /// Workers added less those removed within the period.
    fn within(&self, now: Timestamp, period: Duration) -> i64 {
        let recent = self.0.iter().rev();
        recent
            .take_while(|(at, _)| after(*at, period) > now)
            .map(|(_, change)| change)
            .sum()
    }

    /// When the oldest change of the period leaves it.
    fn leave(&self, now: Timestamp, period: Duration) -> Option<Timestamp> {
        let mut ends = self.0.iter().map(|(at, _)| after(*at, period));
        ends.find(|end| *end > now)
    }
}

/// Recommendations of the past, as far as the extreme one within a window depends on them. `T` orders
/// them: the largest counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window<T> {
    /// Recommendations and until when they held, the largest first; the last is the latest.
    held: VecDeque<(T, Timestamp)>,
}

/// The highest recommendation counts: for shrinking.
pub type Highest = Window<u32>;
/// The lowest recommendation counts: for growing.
pub type Lowest = Window<Reverse<u32>>;

impl<T: Ord + Copy> Window<T> {
    /// Begins with a recommendation.
    pub fn new(now: Timestamp, value: T) -> Self {
        Self {
            held: VecDeque::from([(value, now)]),
        }
    }

    /// The recommendation as of now; the one before held until now.
    pub fn note(&mut self, now: Timestamp, value: T) {
        let count = self.held.len();
        while self.held.back().is_some_and(|(held, _)| *held < value) {
            self.held.pop_back();
        }
        let nothing_smaller = self.held.len() == count;
        match self.held.back_mut() {
            Some((held, until)) if *held == value => *until = now,
            Some((_, until)) if nothing_smaller => {
                *until = now;
                self.held.push_back((value, now));
            }
            _ => self.held.push_back((value, now)),
        }
    }

    /// Forgets what no window of that length or less depends on.
    pub fn forget(&mut self, now: Timestamp, longest: Duration) {
        while self.held.len() > 1
            && self
                .held
                .front()
                .is_some_and(|(_, until)| after(*until, longest) <= now)
        {
            self.held.pop_front();
        }
    }

    /// The largest recommendation within the window, and when that will be another.
    pub fn extreme(&self, now: Timestamp, window: Duration) -> Option<(T, Option<Timestamp>)> {
        let latest = self.held.back()?;
        let within = |(_, until): &&(T, Timestamp)| after(*until, window) > now;
        let (value, until) = *self.held.iter().find(within).unwrap_or(latest);
        let is_latest = value == latest.0;
        Some((value, (!is_latest).then(|| after(until, window))))
    }
}

/// `time` and a while.
pub fn after(time: Timestamp, span: Duration) -> Timestamp {
    time.checked_add(span).unwrap_or(Timestamp::MAX)
}

/// As [`after`], for a span of the spec.
pub fn after_span(time: Timestamp, span: Span) -> Timestamp {
    after(time, span.into())
}

#[cfg(test)]
mod tests;
