//! Makes the pods that a pool lacks.
//!
//! It plans again while pods are made: the tasks of a burst arrive all the while, and whoever waits for
//! the slowest of a batch before looking again is late by that much each time.

use std::collections::{HashSet, VecDeque};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::ResourceClaimTemplate;
use kube::api::PostParams;
use kube::{Api, ResourceExt};

use super::apply::{PARALLEL, apply};
use super::is_owned;
use super::observe::{self, Observed};
use super::plan::{self, Memory, Plan};
use crate::api::WorkerPool;
use crate::controller::context::{News, now};
use crate::controller::{Context, Error, observer};

/// A pool that grows is planned again so often before it tells of that: telling is several requests,
/// while more tasks come.
const ROUNDS: usize = 40;

/// Makes what the plan lacks, and what later plans lack while that is under way. Leaves what was seen
/// last and the last plan. What the API server refuses is remembered and not an error of the visit: the
/// status shows it and the next visit waits.
///
/// # Errors
/// The queue gave no answer.
pub async fn grow(
    cx: &Context,
    observed: &mut Observed,
    plan: &mut Plan,
    memory: &mut Memory,
) -> Result<(), Error> {
    if plan.create.is_empty() {
        return Ok(());
    }
    // After a refusal more are tried step by step, a step a visit.
    let rounds = if memory.refused.is_careful() {
        1
    } else {
        ROUNDS
    };
    let pods = Api::namespaced(
        cx.client.clone(),
        &observed.pool.namespace().unwrap_or_default(),
    );
    let pool = observed.pool.clone();
    let mut waiting = VecDeque::new();
    let mut making = FuturesUnordered::new();
    let (mut asked, mut refusal, mut result) = (0, None, Ok(()));
    for round in 1..=rounds {
        if !plan.create.is_empty() && !claims(cx, observed, memory).await {
            // That is remembered, and pods that were made before do not make up for it.
            asked = 0;
            break;
        }
        asked += plan.create.len();
        for name in &plan.create {
            observed.under_way.insert(name.clone());
            waiting.push_back(observed.template.named(name));
        }
        let all = waiting.len() + making.len();
        let rest = if round < rounds { all / 2 } else { 0 };
        while waiting.len() + making.len() > rest {
            while making.len() < PARALLEL
                && let Some(pod) = waiting.pop_front()
            {
                making.push(make(cx, &pods, &pool, pod));
            }
            let Some((name, made)) = making.next().await else {
                break;
            };
            observed.under_way.remove(&name);
            if let Err(error) = made {
                refusal.get_or_insert(error);
                waiting.clear();
            }
        }
        if all == 0 || round == rounds || refusal.is_some() {
            break;
        }
        result = again(cx, observed, plan, memory).await;
        if result.is_err() {
            break;
        }
    }
    while let Some((_, made)) = making.next().await {
        refusal = refusal.or(made.err());
    }
    observed.under_way.clear();
    if asked > 0 {
        remember(cx, observed, memory, asked, refusal).await;
    }
    result
}

/// Plans once more, and does what has to be done besides making pods.
async fn again(
    cx: &Context,
    o: &mut Observed,
    plan: &mut Plan,
    memory: &mut Memory,
) -> Result<(), Error> {
    let pool = o.pool.clone();
    let namespace = pool.namespace().unwrap_or_default();
    observer::look_at(cx, &namespace, &pool.name_any()).await;
    let mut seen = observe::observe(cx, pool, &mut memory.members, now());
    // The watch may know of a pod before its creation is answered.
    let known: HashSet<&str> = seen.pods.iter().map(|pod| pod.name.as_str()).collect();
    o.under_way.retain(|name| !known.contains(name.as_str()));
    seen.under_way = std::mem::take(&mut o.under_way);
    *o = seen;
    let mut next = plan::plan(o, memory);
    if next.decision.size == plan.decision.size {
        // What is told is why it grew, not that it stays.
        let before = &mut plan.decision;
        next.decision.cause = before.cause;
        next.decision.reason = std::mem::take(&mut before.reason);
    }
    *plan = next;
    apply(cx, o, plan, memory).await
}

/// Makes a pod; answers its name and what was wrong.
async fn make(
    cx: &Context,
    pods: &Api<Pod>,
    pool: &WorkerPool,
    pod: Pod,
) -> (String, Result<(), kube::Error>) {
    let name = pod.name_any();
    let made = match pods.create(&PostParams::default(), &pod).await {
        Err(kube::Error::Api(status)) if status.code == 409 => adopt(cx, pods, pool, &name).await,
        Err(error) => Err(error),
        Ok(made) => {
            cx.pods.wrote(made);
            Ok(())
        }
    };
    (name, made)
}

/// A pod of that name is there: ours, made by an answer we never got, or somebody else's.
async fn adopt(
    cx: &Context,
    pods: &Api<Pod>,
    pool: &WorkerPool,
    name: &str,
) -> Result<(), kube::Error> {
    let Some(found) = pods.get_opt(name).await? else {
        return Ok(());
    };
    if is_owned(&found, pool) {
        cx.pods.wrote(found);
        return Ok(());
    }
    Err(kube::Error::Api(
        kube::core::Status::failure(
            &format!("pod {name} is there already and is not this pool's: delete or rename it"),
            "AlreadyExists",
        )
        .with_code(409)
        .boxed(),
    ))
}

/// What became of so many creations.
async fn remember(
    cx: &Context,
    o: &Observed,
    memory: &mut Memory,
    asked: usize,
    refusal: Option<kube::Error>,
) {
    let Some(error) = refusal else {
        return memory.refused.succeed(asked);
    };
    refused(cx, o, memory, asked, &error).await;
}

/// So many creations were refused; the first refusal in a row is told.
async fn refused(
    cx: &Context,
    o: &Observed,
    memory: &mut Memory,
    asked: usize,
    error: &kube::Error,
) {
    let words = words(error);
    let note = format!("a worker's pod cannot be made: {words}");
    let is_news = memory.refused.failures == 0;
    memory.refused.fail(now(), words, asked);
    if is_news {
        cx.tell(&*o.pool, News::warning("CreateFailed", "CreatePod", note))
            .await;
    }
}

/// Makes what claims the GPUs of the pods that are about to be made; whether it is there.
async fn claims(cx: &Context, o: &Observed, memory: &mut Memory) -> bool {
    let Some(template) = &o.template.claims else {
        return true;
    };
    let api: Api<ResourceClaimTemplate> =
        Api::namespaced(cx.client.clone(), &o.pool.namespace().unwrap_or_default());
    match api.create(&PostParams::default(), template).await {
        Ok(_) => true,
        // Its name has a hash of what it asks for.
        Err(kube::Error::Api(status)) if status.is_already_exists() => true,
        Err(error) => {
            refused(cx, o, memory, 1, &error).await;
            false
        }
    }
}

/// The server's own words.
fn words(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}
