//! A draining worker gets nothing, from the very call on.

use persona_operator::queue::listen::ControlMessage;
use persona_operator::queue::submit::ClaimAnswer;
use persona_operator::queue::task::Duties;

use crate::support::{fixture, numbered, persona, soon};

#[tokio::test]
async fn a_drained_worker_gets_no_task() {
    let q = fixture().await;
    q.open(&["pool"]).await;
    q.route(&persona("p")).await;
    q.enqueue_all("p", numbered("t", 3)).await;
    let w = q.worker("w", "pool", 2).await;
    let running = w.takes(1, &["t0"]).await;
    assert_eq!(q.ns.drain("w", true).await.expect("an answer"), 1);
    let answer = w.try_take(1).await.expect("an answer");
    assert!(answer.draining && answer.tasks.is_empty());
    let claim = q.ns.claim("t1", "w").await.expect("an answer");
    assert_eq!(claim, ClaimAnswer::NoSlot);
    assert!(w.renew(&[&running[0]]).await.expect("an answer").draining);
    w.finish(&running[0]).await;
    assert_eq!(q.ns.drain("w", true).await.expect("an answer"), 0);
}

#[tokio::test]
async fn a_worker_hears_at_once_that_it_is_drained_or_not_any_more() {
    let q = fixture().await;
    let w = q.worker("w", "pool", 2).await;
    let mut control = q.ns.control("w").await.expect("listening");
    for on in [true, false] {
        q.ns.drain("w", on).await.expect("an answer");
        assert_eq!(soon(control.next()).await, ControlMessage::Drain);
        assert_eq!(w.renew(&[]).await.expect("renewed").draining, on);
    }
}

#[tokio::test]
async fn a_worker_hears_at_once_that_its_pool_has_other_duties() {
    let q = fixture().await;
    q.open(&["pool"]).await;
    let w = q.worker("w", "pool", 2).await;
    let mut control = q.ns.control("w").await.expect("listening");
    let duties = Duties {
        phase: "Hybrid".into(),
        steal_from: vec!["other".into()],
    };
    assert!(q.ns.assign("pool", &duties).await.expect("an answer"));
    // Whatever it is told, it asks what is the case.
    assert_eq!(soon(control.next()).await, ControlMessage::Drain);
    assert_eq!(w.renew(&[]).await.expect("renewed").duties, Some(duties));
}

#[tokio::test]
async fn a_worker_that_is_not_draining_any_more_takes_again() {
    let q = fixture().await;
    q.open(&["pool"]).await;
    q.route(&persona("p")).await;
    let w = q.worker("w", "pool", 2).await;
    q.ns.drain("w", true).await.expect("an answer");
    q.enqueue("p", "t").await;
    let mut bell = q.ns.bell("pool", &w.lanes);
    assert!(
        soon(bell.wait(std::time::Duration::from_secs(20)))
            .await
            .expect("rung")
    );
    assert!(w.try_take(2).await.expect("an answer").draining);
    // The token that woke it was meant for another one: it is there again.
    assert!(
        soon(bell.wait(std::time::Duration::from_secs(20)))
            .await
            .expect("rung")
    );
    q.ns.drain("w", false).await.expect("an answer");
    assert!(
        soon(bell.wait(std::time::Duration::from_secs(20)))
            .await
            .expect("rung")
    );
    w.takes(2, &["t"]).await;
}

#[tokio::test]
async fn draining_outlives_a_new_container_of_the_pod_and_ends_with_the_pod() {
    let q = fixture().await;
    q.open(&["pool"]).await;
    q.route(&persona("p")).await;
    q.enqueue("p", "t").await;
    q.worker("w", "pool", 2).await;
    q.ns.drain("w", true).await.expect("an answer");
    let restarted = q.unregistered("w", "pool", 2).instance("w-2");
    restarted.register().await;
    assert!(restarted.try_take(2).await.expect("an answer").draining);
    q.ns.deregister("pool", "w").await.expect("an answer");
    assert!(restarted.try_take(2).await.expect("an answer").draining);
    q.ns.forget_worker("w").await.expect("an answer");
    let namesake = q.worker("w", "pool", 2).await;
    namesake.takes(2, &["t"]).await;
}

#[tokio::test]
async fn a_pod_can_be_drained_before_its_worker_has_come() {
    let q = fixture().await;
    q.open(&["pool"]).await;
    q.route(&persona("p")).await;
    q.enqueue("p", "t").await;
    assert_eq!(q.ns.drain("w", true).await.expect("an answer"), 0);
    let w = q.worker("w", "pool", 2).await;
    assert!(w.try_take(2).await.expect("an answer").draining);
}

/// Take and drain at the same moment: what drain answers is all that the worker ever holds.
#[tokio::test]
async fn no_task_slips_in_between_drain_and_take() {
    let q = fixture().await;
    q.open(&["pool"]).await;
    q.route(&persona("p").concurrency(1000).length(1000)).await;
    q.enqueue_all("p", numbered("t", 200)).await;
    for round in 0..20 {
        let w = q.worker(&format!("w{round}"), "pool", 50).await;
        let taking = tokio::spawn({
            let w = w.clone();
            async move {
                let mut held = 0;
                loop {
                    let answer = w.try_take(1).await.expect("an answer");
                    if answer.draining {
                        return held;
                    }
                    held += answer.tasks.len() as u64;
                }
            }
        });
        tokio::task::yield_now().await;
        let told = q.ns.drain(&w.uid, true).await.expect("an answer");
        assert_eq!(soon(taking).await.expect("taken"), told);
        q.ns.forget_worker(&w.uid).await.expect("forgotten");
    }
}
