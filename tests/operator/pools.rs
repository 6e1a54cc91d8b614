//! A WorkerPool of one's own: its pods, its size, its status.

use std::process::Output;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{Pod, ResourceQuota, Secret};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;
use kube::api::{DeleteParams, Patch, PatchParams};
use persona_operator::api::{Persona, Sizing, WorkerPool};
use serde_json::json;
use testbed::Cluster;

use crate::harness::{Operator, condition, reason};
use crate::upstream::{Upstream, says};

async fn kubectl(operator: &Operator, args: &[&str]) -> Result<Output> {
    let mut kubectl = Cluster::shared().await?.kubectl().await?;
    kubectl.args(["-n", &operator.namespace]).args(args);
    let output = kubectl.output().await?;
    let words = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {words}", args.join(" "));
    Ok(output)
}

fn replicas(wanted: i32) -> impl Fn(Option<&WorkerPool>) -> bool {
    move |pool| {
        let status = pool.and_then(|pool| pool.status.as_ref());
        status
            .is_some_and(|s| s.ready_replicas == wanted && s.replicas == wanted && s.draining == 0)
    }
}

#[tokio::test]
async fn a_pool_of_ones_own_gets_its_workers_and_becomes_ready() -> Result<()> {
    let operator = Operator::start("pool").await?;
    operator.pool("mine", json!({"minReplicas": 2})).await?;
    let pool = operator
        .ready::<WorkerPool>("mine")
        .await?
        .context("gone")?;
    let status = pool.status.clone().context("no status")?;
    assert_eq!((status.replicas, status.ready_replicas), (2, 2));
    assert_eq!(reason(&pool, "Ready").as_deref(), Some("WorkersReady"));
    assert_eq!(pool.spec.replicas, None, "autoscaled");
    operator.stop().await
}

#[tokio::test]
async fn kubectl_scale_pins_the_size_and_a_null_frees_it_again() -> Result<()> {
    let operator = Operator::start("pinned").await?;
    let quick = json!({"minReplicas": 0, "idleTimeout": "1s"});
    operator.pool("mine", quick).await?;
    operator.ready::<WorkerPool>("mine").await?;
    kubectl(&operator, &["scale", "workerpool/mine", "--replicas=3"]).await?;
    let pinned = operator.until("mine", "at three", replicas(3)).await?;
    let pinned = pinned.context("gone")?;
    assert_eq!(
        pinned.status.as_ref().and_then(|s| s.sizing),
        Some(Sizing::Pinned)
    );
    assert_eq!(reason(&pinned, "ScalingActive").as_deref(), Some("Pinned"));
    let shown = kubectl(&operator, &["get", "workerpool", "mine"]).await?;
    let shown = String::from_utf8(shown.stdout)?;
    assert!(shown.contains("Pinned"), "{shown}");
    let free = r#"{"spec":{"replicas":null}}"#;
    kubectl(
        &operator,
        &["patch", "workerpool", "mine", "--type=merge", "-p", free],
    )
    .await?;
    let empty = operator.until("mine", "empty", replicas(0)).await?;
    let empty = empty.context("gone")?;
    assert_eq!(reason(&empty, "Ready").as_deref(), Some("ScaledToZero"));
    let labels = format!("{{namespace=\"{}\",pool=\"mine\"}}", operator.namespace);
    let series = format!("persona_pool_desired_replicas{labels}");
    assert_eq!(operator.metric(&series).await?, Some(0.0));
    operator.stop().await
}

#[tokio::test]
async fn an_empty_pool_is_woken_by_its_first_request() -> Result<()> {
    let model = Upstream::always(says(&["awake"])).await;
    let operator = Operator::start("asleep").await?;
    let quick = json!({"minReplicas": 0, "idleTimeout": "1s"});
    operator.pool("mine", quick).await?;
    let mine = json!({"poolRef": {"name": "mine"}});
    operator.persona("helper", &model.base_url(), mine).await?;
    operator.ready::<Persona>("helper").await?;
    operator.until("mine", "empty", replicas(0)).await?;
    assert_eq!(operator.answer("helper").await?, "awake");
    operator.until("mine", "empty again", replicas(0)).await?;
    assert_eq!(operator.answer("helper").await?, "awake");
    operator.stop().await
}

#[tokio::test]
async fn a_budget_that_its_owner_made_under_a_pools_name_is_left_alone_until_it_is_gone()
-> Result<()> {
    let operator = Operator::start("budget").await?;
    let theirs = json!({
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": "mine"},
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": {"app": "theirs"}}},
    });
    let theirs: PodDisruptionBudget = operator.create(theirs).await?;
    for replicas in [1, 2] {
        let spec = json!({"minReplicas": replicas});
        match replicas {
            1 => drop(operator.pool("mine", spec).await?),
            _ => drop(operator.patch::<WorkerPool>("mine", spec).await?),
        }
        operator
            .until("mine", "as large as asked", |pool: Option<&WorkerPool>| {
                let status = pool.and_then(|pool| pool.status.as_ref());
                status.is_some_and(|status| status.ready_replicas == replicas)
            })
            .await?;
    }
    // Its own would have been written by the visit after.
    let labels = format!("{{namespace=\"{}\",pool=\"mine\"}}", operator.namespace);
    let series = format!("persona_pool_desired_replicas{labels}");
    assert_eq!(operator.metric(&series).await?, Some(2.0));
    let found = operator.all::<PodDisruptionBudget>().get("mine").await?;
    assert_eq!(found.metadata.uid, theirs.metadata.uid);
    assert_eq!(found.spec, theirs.spec);

    let budgets = operator.all::<PodDisruptionBudget>();
    budgets.delete("mine", &DeleteParams::default()).await?;
    let ours = |budget: Option<&PodDisruptionBudget>| {
        let spec = budget.and_then(|budget| budget.spec.as_ref());
        spec.is_some_and(|spec| spec.min_available == Some(IntOrString::Int(1)))
    };
    operator.until("mine", "the pool's own", ours).await?;
    operator.stop().await
}

#[tokio::test]
async fn a_budget_that_somebody_deletes_or_changes_comes_back_though_the_pool_keeps_its_size()
-> Result<()> {
    let operator = Operator::start("lost-budget").await?;
    operator.pool("mine", json!({"minReplicas": 2})).await?;
    operator.until("mine", "at two", replicas(2)).await?;
    let is_there = |budget: Option<&PodDisruptionBudget>| budget.is_some();
    let first = operator.until("mine", "there", is_there).await?;
    let first = first.context("gone")?;

    let budgets = operator.all::<PodDisruptionBudget>();
    budgets.delete("mine", &DeleteParams::default()).await?;
    let restored = |budget: Option<&PodDisruptionBudget>| {
        budget.is_some_and(|found| {
            found.spec == first.spec && found.metadata.labels == first.metadata.labels
        })
    };
    operator.until("mine", "there again", restored).await?;

    let looser = json!({
        "minAvailable": null, "maxUnavailable": 2, "selector": {"matchLabels": {"app": "theirs"}},
    });
    operator
        .patch::<PodDisruptionBudget>("mine", looser)
        .await?;
    operator.until("mine", "as before", restored).await?;

    let unlabelled = Patch::Merge(json!({"metadata": {"labels": null}}));
    budgets
        .patch("mine", &PatchParams::default(), &unlabelled)
        .await?;
    operator.until("mine", "labelled again", restored).await?;
    operator
        .patch::<WorkerPool>("mine", json!({"minReplicas": 1, "idleTimeout": "1s"}))
        .await?;
    let is_gone = |budget: Option<&PodDisruptionBudget>| budget.is_none();
    operator.until("mine", "gone", is_gone).await?;
    operator.stop().await
}

#[tokio::test]
async fn a_quota_is_said_in_the_servers_words_and_mends_itself() -> Result<()> {
    let operator = Operator::start("quota").await?;
    let quota = json!({
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "few"},
        "spec": {"hard": {"pods": "1"}},
    });
    operator.create::<ResourceQuota>(quota).await?;
    operator.pool("mine", json!({"minReplicas": 3})).await?;
    let refused = |pool: Option<&WorkerPool>| {
        pool.is_some_and(|p| {
            let conditions = p.status.iter().flat_map(|s| &s.conditions);
            let mut failures = conditions.filter(|c| c.type_ == "ReplicaFailure");
            p.status.as_ref().is_some_and(|s| s.replicas == 1)
                && failures.any(|c| c.message.contains("exceeded quota"))
        })
    };
    operator.until("mine", "refused", refused).await?;
    operator
        .all::<ResourceQuota>()
        .delete("few", &DeleteParams::default())
        .await?;
    let whole = |pool: Option<&WorkerPool>| {
        pool.is_some_and(|p| {
            condition(p, "Ready").as_deref() == Some("True")
                && condition(p, "ReplicaFailure").is_none()
        })
    };
    operator.until("mine", "whole", whole).await?;
    operator.stop().await
}

#[tokio::test]
async fn an_image_that_is_not_there_is_said_and_harms_no_other_pool() -> Result<()> {
    let operator = Operator::start("image").await?;
    let image = json!({"template": {"containers": {"worker": {"image": "nowhere.test/no:1"}}}});
    operator.pool("broken", image).await?;
    operator.pool("sound", json!({})).await?;
    operator.ready::<WorkerPool>("sound").await?;
    let failing = |pool: Option<&WorkerPool>| {
        pool.is_some_and(|p| reason(p, "Ready").as_deref() == Some("WorkersFailing"))
    };
    operator.until("broken", "failing", failing).await?;
    operator.stop().await
}

#[tokio::test]
async fn a_changed_template_rolls_the_pool_without_a_gap() -> Result<()> {
    let model = Upstream::always(says(&["there"])).await;
    let operator = Operator::start("roll").await?;
    operator.pool("mine", json!({"minReplicas": 2})).await?;
    let mine = json!({"poolRef": {"name": "mine"}});
    operator.persona("helper", &model.base_url(), mine).await?;
    operator.ready::<Persona>("helper").await?;
    let before = operator.pods("mine").await?;
    operator
        .patch::<WorkerPool>("mine", json!({"slotsPerWorker": 9}))
        .await?;
    let old: Vec<String> = before.iter().map(ResourceExt::name_any).collect();
    loop {
        assert_eq!(operator.answer("helper").await?, "there");
        let now = operator.pods("mine").await?;
        if now.iter().all(|pod| !old.contains(&pod.name_any())) {
            break;
        }
    }
    operator.until("mine", "two again", replicas(2)).await?;
    operator.stop().await
}

#[tokio::test]
async fn a_paused_pool_is_left_alone_and_says_so() -> Result<()> {
    let operator = Operator::start("paused").await?;
    operator.pool("mine", json!({})).await?;
    operator.ready::<WorkerPool>("mine").await?;
    let pause = ["annotate", "workerpool", "mine", "persona.dev/paused=true"];
    kubectl(&operator, &pause).await?;
    let paused = |pool: Option<&WorkerPool>| {
        pool.is_some_and(|p| reason(p, "Ready").as_deref() == Some("Paused"))
    };
    let found = operator.until("mine", "paused", paused).await?;
    let found = found.context("gone")?;
    for type_ in ["Ready", "ScalingActive", "Schedulable"] {
        assert_eq!(condition(&found, type_).as_deref(), Some("Unknown"));
        assert_eq!(reason(&found, type_).as_deref(), Some("Paused"));
    }
    kubectl(&operator, &["scale", "workerpool/mine", "--replicas=3"]).await?;
    let resume = ["annotate", "workerpool", "mine", "persona.dev/paused-"];
    assert_eq!(operator.pods("mine").await?.len(), 1);
    kubectl(&operator, &resume).await?;
    operator.until("mine", "at three", replicas(3)).await?;
    operator.stop().await
}

#[tokio::test]
async fn workers_reach_the_queue_as_their_namespaces_user_and_hold_no_account() -> Result<()> {
    let operator = Operator::start("access").await?;
    operator.pool("mine", json!({})).await?;
    operator.ready::<WorkerPool>("mine").await?;
    let secret = operator.all::<Secret>().get("persona-queue-access").await?;
    let data = secret.data.context("no data")?;
    let user = String::from_utf8(data["username"].0.clone())?;
    assert_eq!(user, format!("persona.{}", operator.namespace));
    let pods: Vec<Pod> = operator.pods("mine").await?;
    let spec = pods[0].spec.as_ref().context("no spec")?;
    assert_eq!(spec.automount_service_account_token, Some(false));
    operator.stop().await
}
