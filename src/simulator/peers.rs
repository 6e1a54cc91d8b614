//! KEDA and the HorizontalPodAutoscaler, as their documents describe them (KEDA 2.21 and Kubernetes
//! 1.36): a Deployment whose victims are chosen without knowing who is busy.

use std::collections::VecDeque;

use jiff::Timestamp;

use super::world::{Policy, Pool, World};
use crate::api::{
    Behavior, PolicyType, Scaling, ScalingPolicy, ScalingRules, SelectPolicy, WorkerPoolSpec,
};
use crate::scaling::behavior::{Changes, Rules};

/// HPA's default tolerance.
const TOLERANCE: f64 = 0.1;
/// terminationGracePeriodSeconds of a pod, ms: its tasks may end within that time.
const GRACE: u64 = 30_000;
/// The controller-manager's client: requests a second, and at once.
const CLIENT: (f64, f64) = (20.0, 30.0);
/// Time over which metrics-server averages the use of a pod, ms.
const USAGE_WINDOW: usize = 15_000;
/// Utilization that an HPA holds by default in the documents' examples, less than all.
const UTILIZATION: f64 = 0.7;

/// What the size follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric {
    /// KEDA's external metric: waiting tasks, so many a pod.
    Waiting(u32),
    /// The same with running tasks (a stream's pending entries), so many a pod.
    Present(u32),
    /// Busy slots over slots, as an HPA by utilization.
    Utilization,
}

/// How a peer is set.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    metric: Metric,
    /// KEDA's pollingInterval, ms: how soon it wakes an empty pool.
    poll: u64,
    /// KEDA's cooldownPeriod, ms: how soon it empties an idle pool.
    cooldown: u64,
    /// The HPA's sync period, ms.
    sync: u64,
    /// stabilizationWindowSeconds of scaleDown.
    down_window: u32,
    /// Whether scaleUp is open, or has the HPA's default policies.
    open: bool,
}

impl Settings {
    /// An HPA on utilization with everything at its default.
    pub const HPA: Self = Self {
        metric: Metric::Utilization,
        poll: u64::MAX,
        cooldown: u64::MAX,
        sync: 15_000,
        down_window: 300,
        open: false,
    };

    /// The same, tuned: it may grow as it likes and looks back as long as our idleTimeout.
    pub fn hpa_tuned(pool: Pool) -> Self {
        Self {
            down_window: seconds(pool.idle_timeout),
            open: true,
            ..Self::HPA
        }
    }

    /// KEDA on a list with everything at its default: 5 waiting tasks a pod.
    pub const KEDA: Self = Self {
        metric: Metric::Waiting(5),
        poll: 30_000,
        cooldown: 300_000,
        ..Self::HPA
    };

    /// KEDA as somebody sets it who knows it well: it counts what runs too, a task a slot, polls each
    /// second, may grow as it likes and looks back as long as our idleTimeout.
    pub fn keda_tuned(pool: Pool) -> Self {
        Self {
            metric: Metric::Present(pool.slots),
            poll: 1000,
            cooldown: pool.idle_timeout,
            down_window: seconds(pool.idle_timeout),
            open: true,
            ..Self::KEDA
        }
    }

    /// The same on a control plane whose HPA syncs each second (a flag of the controller-manager).
    pub fn keda_tuned_sync1(pool: Pool) -> Self {
        Self {
            sync: 1000,
            ..Self::keda_tuned(pool)
        }
    }

    /// KEDA is there, and takes the pool to zero and back.
    pub const fn wakes(&self) -> bool {
        self.poll != u64::MAX
    }

    fn behavior(&self) -> Behavior {
        let policy = |type_, value, period_seconds| ScalingPolicy {
            type_,
            value,
            period_seconds,
        };
        let up = if self.open {
            vec![policy(PolicyType::Pods, 100_000, 1)]
        } else {
            vec![
                policy(PolicyType::Percent, 100, 15),
                policy(PolicyType::Pods, 4, 15),
            ]
        };
        let rules = |window, policies| ScalingRules {
            stabilization_window_seconds: Some(window),
            tolerance: Some(TOLERANCE),
            policies,
            select_policy: Some(SelectPolicy::Max),
        };
        Behavior {
            scale_up: Some(rules(0, up)),
            scale_down: Some(rules(
                self.down_window,
                vec![policy(PolicyType::Percent, 100, 15)],
            )),
        }
    }
}

fn seconds(ms: u64) -> u32 {
    u32::try_from(ms.div_ceil(1000)).unwrap_or(u32::MAX)
}

/// KEDA with its HPA, or an HPA alone, and the Deployment below.
pub struct Peer {
    settings: Settings,
    up: Rules,
    down: Rules,
    changes: Changes,
    recommendations: VecDeque<(u64, u32)>,
    /// spec.replicas of the Deployment.
    replicas: u32,
    next_poll: u64,
    next_sync: u64,
    /// When the trigger was last active.
    active_at: u64,
    /// Requests that the client may make now, as of a moment.
    allowance: (f64, u64),
    /// Busy share, ten times a second.
    usage: VecDeque<f64>,
}

impl Peer {
    /// A peer whose clocks stand at a random phase.
    pub fn new(settings: Settings, pool: Pool, seed: u64) -> Self {
        let spec = WorkerPoolSpec {
            scaling: Scaling {
                behavior: Some(settings.behavior()),
                ..Scaling::default()
            },
            ..WorkerPoolSpec::default()
        };
        let phase = |period: u64| {
            let share =
                (seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) as f64 / (1u64 << 24) as f64;
            if period == u64::MAX {
                u64::MAX
            } else {
                (period as f64 * share) as u64
            }
        };
        Self {
            settings,
            up: Rules::up(&spec),
            down: Rules::down(&spec),
            changes: Changes::default(),
            recommendations: VecDeque::from([(0, pool.min)]),
            replicas: pool.min,
            next_poll: phase(settings.poll),
            next_sync: phase(settings.sync),
            active_at: 0,
            allowance: (CLIENT.1, 0),
            usage: VecDeque::new(),
        }
    }

    /// KEDA itself only wakes and empties: 0 <-> 1.
    fn poll(&mut self, world: &World) {
        let active = !world.queue.is_empty()
            || self.settings.metric != Metric::Waiting(5) && world.running() > 0;
        if active {
            self.active_at = world.now;
            self.replicas = self.replicas.max(1);
        } else if world.pool.min == 0 && world.now >= self.active_at + self.settings.cooldown {
            self.replicas = 0;
        }
    }

    /// One sync of the HPA (`reconcileAutoscaler`).
    fn sync(&mut self, world: &World) {
        if self.replicas == 0 {
            return;
        }
        let floor = world.pool.min.max(1);
        let wanted = self.proposal(world).clamp(floor, world.pool.max);
        let stable = self.stabilized(world.now, wanted);
        let now = timestamp(world.now);
        let next = if stable > self.replicas {
            stable.min(self.up.ceiling(now, self.replicas, &self.changes))
        } else {
            stable.max(self.down.floor(now, self.replicas, &self.changes))
        };
        self.changes.note(now, self.replicas, next);
        self.replicas = next;
    }

    fn proposal(&self, world: &World) -> u32 {
        let pods = world.pods.values().filter(|pod| pod.takes);
        let (ready, all) = pods.fold((0.0, 0.0), |(ready, all), pod| {
            (ready + f64::from(u8::from(pod.ready(world.now))), all + 1.0)
        });
        let waiting = world.queue.len() as f64;
        let ratio_of = |value: f64, target: u32| (value, f64::from(target));
        let (value, target) = match self.settings.metric {
            Metric::Waiting(target) => ratio_of(waiting, target),
            Metric::Present(target) => ratio_of(waiting + world.running() as f64, target),
            Metric::Utilization => return self.by_utilization(ready, all),
        };
        // GetExternalPerPodMetricReplicas.
        let ratio = value / (target * all);
        if (ratio - 1.0).abs() <= TOLERANCE {
            self.replicas
        } else {
            (value / target).ceil() as u32
        }
    }

    /// `calcPlainMetricReplicas`: pods that are not ready count as idle when it would grow.
    fn by_utilization(&self, ready: f64, all: f64) -> u32 {
        if ready == 0.0 || self.usage.is_empty() {
            return self.replicas;
        }
        let mean = self.usage.iter().sum::<f64>() / self.usage.len() as f64;
        let ratio = mean / UTILIZATION;
        let (ratio, pods) = if ratio > 1.0 {
            (ratio * ready / all, all)
        } else {
            (ratio, ready)
        };
        if (ratio - 1.0).abs() <= TOLERANCE || (mean > UTILIZATION && ratio < 1.0) {
            self.replicas
        } else {
            (ratio * pods).ceil() as u32
        }
    }

    /// `stabilizeRecommendationWithBehaviors`.
    fn stabilized(&mut self, now: u64, wanted: u32) -> u32 {
        let (mut low, mut high) = (wanted, wanted);
        for (at, size) in &self.recommendations {
            let age = std::time::Duration::from_millis(now - at);
            if age < self.up.window {
                low = low.min(*size);
            }
            if age < self.down.window {
                high = high.max(*size);
            }
        }
        self.recommendations.push_back((now, wanted));
        let longest = self.up.window.max(self.down.window);
        let old = now.saturating_sub(u64::try_from(longest.as_millis()).unwrap_or(u64::MAX));
        while self
            .recommendations
            .front()
            .is_some_and(|(at, _)| *at < old)
        {
            self.recommendations.pop_front();
        }
        self.replicas.max(low).min(high)
    }

    /// The Deployment's ReplicaSet makes pods as fast as its client may, and takes away those that are
    /// not ready first, then any.
    fn replicate(&mut self, world: &mut World) {
        let (tokens, since) = self.allowance;
        let earned = (world.now - since) as f64 / 1000.0 * CLIENT.0;
        let mut tokens = (tokens + earned).min(CLIENT.1);
        loop {
            let there: Vec<u64> = world
                .pods
                .iter()
                .filter(|(_, pod)| pod.terminates.is_none() && pod.takes)
                .map(|(number, _)| *number)
                .collect();
            let wanted = self.replicas as usize;
            if there.len() == wanted || tokens < 1.0 {
                break;
            }
            tokens -= 1.0;
            if there.len() < wanted {
                world.create();
                continue;
            }
            let starting = there
                .iter()
                .find(|number| !world.pods[*number].ready(world.now));
            let victim = starting
                .copied()
                .unwrap_or_else(|| there[world.pick(there.len())]);
            world.terminate(victim, GRACE);
        }
        self.allowance = (tokens, world.now);
    }

    fn measure(&mut self, world: &World) {
        let ready = world
            .pods
            .values()
            .filter(|pod| pod.takes && pod.ready(world.now));
        let (busy, pods) = ready.fold((0, 0u64), |(busy, pods), pod| {
            (busy + pod.running.len(), pods + 1)
        });
        if pods > 0 {
            self.usage
                .push_back(busy as f64 / (pods * u64::from(world.pool.slots)) as f64);
        }
        while self.usage.len() > USAGE_WINDOW / 100 {
            self.usage.pop_front();
        }
    }
}

impl Policy for Peer {
    fn visit(&mut self, world: &mut World) -> u64 {
        self.measure(world);
        if world.now >= self.next_poll {
            self.poll(world);
            self.next_poll = world.now + self.settings.poll;
        }
        if world.now >= self.next_sync {
            self.sync(world);
            self.next_sync = world.now + self.settings.sync;
        }
        world.sized(self.replicas);
        self.replicate(world);
        world.now + 100
    }
}

fn timestamp(ms: u64) -> Timestamp {
    i64::try_from(ms)
        .ok()
        .and_then(|ms| Timestamp::from_millisecond(ms).ok())
        .unwrap_or(Timestamp::MAX)
}
