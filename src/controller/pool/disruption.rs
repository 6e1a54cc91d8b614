//! What keeps others from disturbing workers: a PodDisruptionBudget, and annotations that tell
//! autoscalers of nodes which pods are busy. The decisions are pure.

use std::collections::{BTreeMap, HashMap};

use futures::{StreamExt, stream};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, Resource, ResourceExt};
use serde_json::json;

use super::apply::PARALLEL;
use super::observe::Observed;
use super::{FIELD_MANAGER, is_owned};
use crate::api::names::{LABEL_MANAGED_BY, LABEL_POOL, MANAGER};
use crate::api::{Span, WorkerPool};
use crate::controller::Context;

/// The cluster autoscaler leaves pods with `"false"` alone, and removes nodes of those with `"true"`
/// though their owner is none it knows.
const SAFE_TO_EVICT: &str = "cluster-autoscaler.kubernetes.io/safe-to-evict";
/// Karpenter leaves pods that have it alone.
const DO_NOT_DISRUPT: &str = "karpenter.sh/do-not-disrupt";
/// A worker is called idle after this.
const IDLE: Span = Span::secs(30);
/// And busy after this: short work is not worth a write.
const BUSY: Span = Span::secs(5);

/// Somebody else's budget of the pool's name is looked at again after this.
const TAKEN: Span = Span::secs(10);

/// What is remembered of a pool's workers and budget between two visits.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// Worker -> busy or not, and since when.
    since: HashMap<String, (bool, Timestamp)>,
    /// Worker -> what its pod was told.
    told: HashMap<String, bool>,
    /// Least workers of the budget that was written; `Some(0)` = there is none.
    budget: Option<u32>,
    /// Somebody else's budget had the pool's name; looked at again then.
    taken_until: Option<Timestamp>,
}

/// What is to be told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Pod name, uid, and whether it is busy.
    pub tell: Vec<(String, String, bool)>,
    /// When there may be more to tell.
    pub again_at: Option<Timestamp>,
}

/// Whom to call busy or idle: changed slowly, so that a pool under load costs few writes.
pub fn plan(o: &Observed, memory: &mut Memory) -> Plan {
    let mut plan = Plan::default();
    let Ok(stats) = &o.stats else { return plan };
    memory
        .since
        .retain(|uid, _| o.pods.iter().any(|pod| pod.uid == *uid));
    memory
        .told
        .retain(|uid, _| o.pods.iter().any(|pod| pod.uid == *uid));
    for pod in o.pods.iter().filter(|pod| pod.ready && !pod.deleting) {
        let Some(worker) = stats.workers.iter().find(|w| w.uid == pod.uid) else {
            continue;
        };
        let busy = worker.busy() > 0;
        let state = memory.since.entry(pod.uid.clone()).or_insert((busy, o.now));
        if state.0 != busy {
            *state = (busy, o.now);
        }
        if memory.told.get(&pod.uid) == Some(&busy) {
            continue;
        }
        let window = if busy { BUSY } else { IDLE };
        let due = state
            .1
            .checked_add(window.as_duration())
            .unwrap_or(Timestamp::MAX);
        if due <= o.now {
            plan.tell.push((pod.name.clone(), pod.uid.clone(), busy));
        } else {
            plan.again_at = Some(plan.again_at.map_or(due, |at| at.min(due)));
        }
    }
    let taken = memory.taken_until.filter(|until| o.now < *until);
    plan.again_at = plan.again_at.into_iter().chain(taken).min();
    plan
}

/// Workers that an eviction must leave: all but one. None for a pool of one, whose budget would keep
/// its node from being emptied for ever. A number, because percentages are of a scale that is unset.
pub const fn min_available(size: u32) -> u32 {
    size.saturating_sub(1)
}

/// Writes what the plan says. Courtesies to others: what fails is logged, and tried at the next visit.
pub async fn apply(cx: &Context, o: &Observed, plan: &Plan, size: u32, memory: &mut Memory) {
    let namespace = o.pool.namespace().unwrap_or_default();
    let pods: Api<Pod> = Api::namespaced(cx.client.clone(), &namespace);
    let telling = plan.tell.clone().into_iter().map(|(name, uid, busy)| {
        let pods = &pods;
        async move {
            let busy_word = busy.then_some("true");
            let patch = json!({"metadata": {"uid": uid, "annotations": {
                SAFE_TO_EVICT: if busy { "false" } else { "true" },
                DO_NOT_DISRUPT: busy_word,
            }}});
            let (params, patch) = (PatchParams::default(), Patch::Merge(&patch));
            let told = pods.patch_metadata(&name, &params, &patch).await;
            (name, uid, busy, told)
        }
    });
    let mut telling = stream::iter(telling).buffer_unordered(PARALLEL);
    while let Some((name, uid, busy, told)) = telling.next().await {
        match told {
            Ok(_) => {
                memory.told.insert(uid, busy);
            }
            Err(error) if crate::controller::status::is_gone(&error) => {}
            Err(error) => tracing::warn!(pod = name, %error, "a pod cannot be annotated"),
        }
    }
    let least = min_available(size);
    let is_taken = memory.taken_until.is_some_and(|until| o.now < until);
    if memory.budget != Some(least) && !is_taken {
        match write_budget(cx, &o.pool, least).await {
            Ok(true) => (memory.budget, memory.taken_until) = (Some(least), None),
            Ok(false) => {
                // Of a pool that was deleted and made again, the old one's is still there for a while.
                if memory.taken_until.is_none() {
                    tracing::warn!(
                        namespace,
                        budget = o.pool.name_any(),
                        "a PodDisruptionBudget of somebody else has the pool's name and is left alone: the pool has no budget until that one is gone"
                    );
                }
                memory.taken_until = o.now.checked_add(TAKEN.as_duration()).ok();
            }
            Err(error) => {
                tracing::warn!(pool = o.pool.name_any(), %error, "its disruption budget cannot be set");
            }
        }
    }
}

/// False if the name is taken: by a user's, or by that of a deleted pool of this name, which goes soon.
async fn write_budget(cx: &Context, pool: &WorkerPool, least: u32) -> Result<bool, kube::Error> {
    let namespace = pool.namespace().unwrap_or_default();
    let budgets: Api<PodDisruptionBudget> = Api::namespaced(cx.client.clone(), &namespace);
    let name = pool.name_any();
    let found = budgets.get_opt(&name).await?;
    if found.as_ref().is_some_and(|found| !is_owned(found, pool)) {
        return Ok(least == 0);
    }
    if least == 0 {
        let Some(ours) = found else { return Ok(true) };
        let params = DeleteParams::default().preconditions(Preconditions {
            uid: ours.uid(),
            resource_version: None,
        });
        return match budgets.delete(&name, &params).await {
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(true),
            other => other.map(|_| true),
        };
    }
    let params = PatchParams::apply(FIELD_MANAGER).force();
    let budget = budget(pool, least);
    budgets
        .patch(&name, &params, &Patch::Apply(&budget))
        .await
        .map(|_| true)
}

fn budget(pool: &WorkerPool, least: u32) -> PodDisruptionBudget {
    PodDisruptionBudget {
        metadata: ObjectMeta {
            name: Some(pool.name_any()),
            labels: Some(BTreeMap::from([(
                LABEL_MANAGED_BY.to_owned(),
                MANAGER.to_owned(),
            )])),
            owner_references: pool.controller_owner_ref(&()).map(|owner| vec![owner]),
            ..ObjectMeta::default()
        },
        spec: Some(PodDisruptionBudgetSpec {
            min_available: Some(IntOrString::Int(i32::try_from(least).unwrap_or(i32::MAX))),
            selector: Some(LabelSelector {
                match_labels: Some(BTreeMap::from([(LABEL_POOL.to_owned(), pool.name_any())])),
                match_expressions: None,
            }),
            // A worker that is not Ready answers nobody: it may go whatever the budget says.
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
            ..PodDisruptionBudgetSpec::default()
        }),
        status: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::pool::status::tests::{observed, pod, running};

    fn later(seconds: u64) -> Span {
        Span::secs(seconds)
    }

    fn visit(o: &mut Observed, memory: &mut Memory, pass: Span) -> Plan {
        o.now = o.now.checked_add(pass.as_duration()).expect("in range");
        let plan = plan(o, memory);
        for (_, uid, busy) in &plan.tell {
            memory.told.insert(uid.clone(), *busy);
        }
        plan
    }

    #[test]
    fn workers_are_called_busy_after_5_s_and_idle_after_30() {
        let mut o = observed(json!({}));
        pod(&mut o, "a", true, 1);
        let mut memory = Memory::default();
        let first = visit(&mut o, &mut memory, later(0));
        assert!(first.tell.is_empty() && first.again_at.is_some());
        let busy = visit(&mut o, &mut memory, later(5));
        assert_eq!(busy.tell, [("a".into(), "a".into(), true)]);
        assert_eq!(visit(&mut o, &mut memory, later(60)), Plan::default());
        running(&mut o, "a", 0);
        assert!(visit(&mut o, &mut memory, later(1)).tell.is_empty());
        assert!(visit(&mut o, &mut memory, later(29)).tell.is_empty());
        let idle = visit(&mut o, &mut memory, later(1));
        assert_eq!(idle.tell, [("a".into(), "a".into(), false)]);
    }

    #[test]
    fn a_worker_that_flickers_costs_no_writes() {
        let mut o = observed(json!({}));
        pod(&mut o, "a", true, 1);
        let mut memory = Memory::default();
        for round in 0..50 {
            running(&mut o, "a", round % 2);
            assert!(visit(&mut o, &mut memory, later(3)).tell.is_empty());
        }
    }

    #[test]
    fn a_pool_of_one_has_no_budget_that_would_hold_up_a_node() {
        assert_eq!([0, 1, 2, 8].map(min_available), [0, 0, 1, 7]);
    }
}
