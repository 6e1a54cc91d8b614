//! What keeps others from disturbing workers: a PodDisruptionBudget, and annotations that tell
//! autoscalers of nodes which pods are busy. The decisions are pure.

use std::collections::{BTreeMap, HashMap};

use futures::{StreamExt, stream};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::runtime::reflector::ObjectRef;
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

/// A budget that is not as it should be is looked at at once for each size, and then again after this:
/// it may be somebody else's, or refused, or the watch does not show it yet.
const AGAIN: Span = Span::secs(10);

/// What is remembered of a pool's workers and budget between two visits.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// Worker -> busy or not, and since when.
    since: HashMap<String, (bool, Timestamp)>,
    /// Worker -> what its pod was told.
    told: HashMap<String, bool>,
    /// The last look at its budget.
    look: Option<Look>,
}

/// A look at a budget that was not as it should be.
#[derive(Clone, Debug)]
struct Look {
    /// Workers that had to stay.
    least: u32,
    /// Not again before.
    until: Timestamp,
    found: Found,
}

/// What a look came to.
#[derive(Clone, Debug)]
enum Found {
    /// A user's, or that of a deleted pool of this name, which goes soon.
    Taken,
    /// It is as it should be; where it was written, what the API server made of that: a webhook of the
    /// cluster may have its own mind about budgets.
    Right(Option<PodDisruptionBudgetSpec>),
    /// The API server gave no answer, or said no.
    Refused,
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
    plan
}

/// Workers that an eviction must leave: all but one. None for a pool of one, whose budget would keep
/// its node from being emptied for ever. A number, because percentages are of a scale that is unset.
pub const fn min_available(size: u32) -> u32 {
    size.saturating_sub(1)
}

/// Writes what the plan says, and the budget. Courtesies to others: what fails is logged, and tried at a
/// later visit. Answers when the budget has to be looked at again.
pub async fn apply(
    cx: &Context,
    o: &Observed,
    plan: &Plan,
    size: u32,
    memory: &mut Memory,
) -> Option<Timestamp> {
    tell(cx, o, plan, memory).await;
    keep_budget(cx, o, min_available(size), memory).await
}

async fn tell(cx: &Context, o: &Observed, plan: &Plan, memory: &mut Memory) {
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
}

/// Whether the budget is as it should be. `made` is what the API server made of it when it was written.
fn is_right(
    found: Option<&PodDisruptionBudget>,
    pool: &WorkerPool,
    least: u32,
    made: Option<&PodDisruptionBudgetSpec>,
) -> bool {
    let Some(ours) = found.filter(|found| is_owned(*found, pool)) else {
        return least == 0;
    };
    let wanted = spec(pool, least);
    let is = |spec| ours.spec.as_ref() == Some(spec);
    let label = ours.labels().get(LABEL_MANAGED_BY);
    least > 0 && label.is_some_and(|by| by == MANAGER) && (is(&wanted) || made.is_some_and(is))
}

/// Compares the budget with what it should be, as the watch shows it, and mends it.
async fn keep_budget(
    cx: &Context,
    o: &Observed,
    least: u32,
    memory: &mut Memory,
) -> Option<Timestamp> {
    let (namespace, name) = (o.pool.namespace().unwrap_or_default(), o.pool.name_any());
    let seen = cx
        .stores
        .budgets
        .get(&ObjectRef::new(&name).within(&namespace));
    let last = memory.look.as_ref().filter(|look| look.least == least);
    let made = match last.map(|look| &look.found) {
        Some(Found::Right(made)) => made.clone(),
        _ => None,
    };
    if is_right(seen.as_deref(), &o.pool, least, made.as_ref()) {
        return None;
    }
    if let Some(last) = last.filter(|look| o.now < look.until) {
        return Some(last.until);
    }
    let found = match write_budget(cx, &o.pool, least, made).await {
        Ok(found) => found,
        Err(error) => {
            tracing::warn!(pool = name, %error, "its disruption budget cannot be set, trying again");
            Found::Refused
        }
    };
    let before = memory.look.as_ref().map(|look| &look.found);
    // Of a pool that was deleted and made again, the old one's is still there for a while.
    if matches!(found, Found::Taken) && !matches!(before, Some(Found::Taken)) {
        tracing::warn!(
            namespace,
            budget = name,
            "a PodDisruptionBudget of somebody else has the pool's name and is left alone: the pool has no budget until that one is gone"
        );
    }
    let until = o.now.checked_add(AGAIN.as_duration()).ok()?;
    memory.look = Some(Look {
        least,
        until,
        found,
    });
    Some(until)
}

/// Asks the API server for the budget, and writes it if it is not as it should be.
async fn write_budget(
    cx: &Context,
    pool: &WorkerPool,
    least: u32,
    made: Option<PodDisruptionBudgetSpec>,
) -> Result<Found, kube::Error> {
    let namespace = pool.namespace().unwrap_or_default();
    let budgets: Api<PodDisruptionBudget> = Api::namespaced(cx.client.clone(), &namespace);
    let name = pool.name_any();
    let found = budgets.get_opt(&name).await?;
    if is_right(found.as_ref(), pool, least, made.as_ref()) {
        return Ok(Found::Right(made));
    }
    let Some(found) = found else {
        let params = PostParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PostParams::default()
        };
        let made = budgets.create(&params, &budget(pool, least)).await?;
        return Ok(Found::Right(made.spec));
    };
    if !is_owned(&found, pool) {
        return Ok(Found::Taken);
    }
    if least == 0 {
        let params = DeleteParams::default().preconditions(Preconditions {
            uid: found.uid(),
            resource_version: None,
        });
        return match budgets.delete(&name, &params).await {
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {
                Ok(Found::Right(None))
            }
            other => other.map(|_| Found::Right(None)),
        };
    }
    // The spec as a whole: maxUnavailable of somebody else beside our minAvailable would be refused.
    let mut spec = json!(spec(pool, least));
    spec["$patch"] = "replace".into();
    let patch = json!({
        "metadata": {"uid": found.uid(), "labels": {LABEL_MANAGED_BY: MANAGER}},
        "spec": spec,
    });
    let params = PatchParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PatchParams::default()
    };
    let patch = Patch::Strategic(&patch);
    let made = budgets.patch(&name, &params, &patch).await?;
    Ok(Found::Right(made.spec))
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
        spec: Some(spec(pool, least)),
        status: None,
    }
}

fn spec(pool: &WorkerPool, least: u32) -> PodDisruptionBudgetSpec {
    PodDisruptionBudgetSpec {
        min_available: Some(IntOrString::Int(i32::try_from(least).unwrap_or(i32::MAX))),
        selector: Some(LabelSelector {
            match_labels: Some(BTreeMap::from([(LABEL_POOL.to_owned(), pool.name_any())])),
            match_expressions: None,
        }),
        // A worker that is not Ready answers nobody: it may go whatever the budget says.
        unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
        ..PodDisruptionBudgetSpec::default()
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

    #[test]
    fn a_budget_is_right_when_it_is_the_pools_own_and_says_what_it_should() {
        let pool = crate::controller::fixture::a_pool("mine");
        let ours = budget(&pool, 3);
        let is_right =
            |found: &PodDisruptionBudget, least, made| is_right(Some(found), &pool, least, made);
        assert!(is_right(&ours, 3, None));
        assert!(!is_right(&ours, 2, None) && !is_right(&ours, 0, None));
        assert!(super::is_right(None, &pool, 0, None));
        assert!(
            !super::is_right(None, &pool, 3, None),
            "somebody deleted it"
        );

        let mut looser = ours.clone();
        looser.spec.as_mut().expect("a spec").min_available = Some(IntOrString::Int(0));
        assert!(!is_right(&looser, 3, None));
        // What a webhook makes of each that is written is not written again and again.
        assert!(is_right(&looser, 3, looser.spec.as_ref()));

        let mut unlabelled = ours.clone();
        unlabelled.metadata.labels = None;
        assert!(
            !is_right(&unlabelled, 3, None),
            "the watch would not show it"
        );

        let mut theirs = ours;
        theirs.metadata.owner_references = None;
        assert!(!is_right(&theirs, 3, None));
        assert!(is_right(&theirs, 0, None), "none of ours is wanted");
    }
}
