//! Routes change by compare-and-set; pools open and close.

use persona_operator::queue::routing::{CloseAnswer, Registration, RouteAnswer, Target};

use crate::support::{fixture, numbered, persona};

#[tokio::test]
async fn an_older_epoch_changes_nothing() {
    let q = fixture().await;
    q.open(&["a", "b"]).await;
    q.route(&persona("p").pool("a").epoch(5)).await;
    let answer = q.try_route(&persona("p").pool("b").epoch(4)).await;
    assert_eq!(answer, RouteAnswer::StaleEpoch { current: 5 });
    let known = q.ns.registration("p").await.expect("an answer");
    assert_eq!(
        known,
        Some(Registration {
            uid: "p-uid".into(),
            pool: Some("a".into()),
            epoch: 5,
            generation: 1,
            needs: None,
        })
    );
    // The same epoch may correct itself.
    q.route(&persona("p").pool("b").epoch(5)).await;
}

#[tokio::test]
async fn another_uid_is_refused_until_the_first_one_is_removed() {
    let q = fixture().await;
    q.open(&["pool"]).await;
    q.route(&persona("p").uid("first")).await;
    let answer = q.try_route(&persona("p").uid("second").epoch(9)).await;
    let current = "first".to_owned();
    assert_eq!(answer, RouteAnswer::OtherUid { current });
}

#[tokio::test]
async fn an_older_generation_is_refused() {
    let q = fixture().await;
    q.open(&["pool"]).await;
    q.route(&persona("p").generation(3).concurrency(7)).await;
    let answer = q
        .try_route(&persona("p").generation(2).concurrency(1))
        .await;
    assert_eq!(answer, RouteAnswer::StaleGeneration { current: 3 });
    q.enqueue_all("p", numbered("t", 8)).await;
    let w = q.worker("w", "pool", 8).await;
    assert_eq!(w.take(8).await.len(), 7);
}

#[tokio::test]
async fn a_pool_that_is_not_open_takes_nobody_in() {
    let q = fixture().await;
    q.open(&["a"]).await;
    let refused = q.try_route(&persona("p").pool("never-opened")).await;
    assert_eq!(refused, RouteAnswer::ClosedPool);
    assert_eq!(q.ns.registration("p").await.expect("an answer"), None);
    assert_eq!(
        q.ns.close("a", 0).await.expect("an answer"),
        CloseAnswer::Closed
    );
    let refused = q.try_route(&persona("p").pool("a")).await;
    assert_eq!(refused, RouteAnswer::ClosedPool);
    q.open(&["a"]).await;
    q.route(&persona("p").pool("a")).await;
}

#[tokio::test]
async fn a_persona_without_a_pool_accepts_tasks_and_runs_them_once_it_has_one() {
    let q = fixture().await;
    q.open(&["pool"]).await;
    q.route(&persona("p").nowhere()).await;
    q.enqueue_all("p", numbered("t", 2)).await;
    let w = q.worker("w", "pool", 4).await;
    w.takes(4, &[]).await;
    let answer = q.try_route(&persona("p")).await;
    let expected = RouteAnswer::Routed {
        from: None,
        pool: Some("pool".to_owned()),
        queued: 2,
    };
    assert_eq!(answer, expected);
    w.takes(4, &["t0", "t1"]).await;
}

#[tokio::test]
async fn limits_change_without_a_move_and_nowhere_takes_a_persona_out_of_its_pool() {
    let q = fixture().await;
    q.open(&["pool"]).await;
    q.route(&persona("p").concurrency(1)).await;
    q.enqueue_all("p", numbered("t", 6)).await;
    let wider = persona("p").concurrency(3).generation(2);
    let mut route = wider.route();
    route.target = Target::Unchanged;
    let answer = q.ns.route(&route).await.expect("an answer");
    assert_eq!(
        answer,
        RouteAnswer::Routed {
            from: None,
            pool: Some("pool".to_owned()),
            queued: 6
        }
    );
    let w = q.worker("w", "pool", 8).await;
    w.takes(8, &["t0", "t1", "t2"]).await;
    let answer = q.try_route(&persona("p").nowhere().generation(3)).await;
    let from = Some("pool".to_owned());
    assert_eq!(
        answer,
        RouteAnswer::Routed {
            from,
            pool: None,
            queued: 3
        }
    );
    q.ns.reap_worker("w").await.expect("reaped");
    w.takes(8, &[]).await;
    assert_eq!(q.stats("pool").await.members, 0);
}

#[tokio::test]
async fn unchanged_is_nowhere_for_a_new_persona() {
    let q = fixture().await;
    let p = persona("p");
    let mut route = p.route();
    route.target = Target::Unchanged;
    q.ns.route(&route).await.expect("an answer");
    let known = q.ns.registration("p").await.expect("an answer");
    assert_eq!(known.expect("registered").pool, None);
    q.enqueue("p", "t").await;
}

#[tokio::test]
async fn a_pool_closes_only_when_it_is_empty() {
    let q = fixture().await;
    q.open(&["a", "b"]).await;
    q.route(&persona("p").pool("a")).await;
    q.enqueue_all("p", numbered("t", 3)).await;
    let w = q.worker("w", "a", 1).await;
    let task = w.take_one().await;
    let busy = |members, queued, running| CloseAnswer::Busy {
        members,
        queued,
        running,
    };
    let close = async || q.ns.close("a", 0).await.expect("an answer");
    assert_eq!(close().await, busy(1, 2, 1));
    assert_eq!(q.ns.pools().await.expect("pools").len(), 2);
    q.route(&persona("p").pool("b")).await;
    // What it runs has moved with its persona, but it still runs here.
    assert_eq!(close().await, busy(0, 0, 1));
    w.finish(&task).await;
    assert_eq!(close().await, CloseAnswer::Closed);
    assert_eq!(close().await, CloseAnswer::Closed);
    assert_eq!(q.ns.pools().await.expect("pools"), ["b"]);
    assert!(!q.stats("a").await.open);
}

#[tokio::test]
async fn once_a_pool_was_closed_nobody_enters_any_by_the_word_of_an_older_topology() {
    let q = fixture().await;
    q.open(&["a", "b"]).await;
    q.route(&persona("p").pool("b").epoch(1)).await;
    assert_eq!(
        q.ns.close("a", 3).await.expect("an answer"),
        CloseAnswer::Closed
    );
    // Opened again by who has not heard that it is about to be deleted.
    q.open(&["a"]).await;
    let late = q.try_route(&persona("p").pool("a").epoch(2)).await;
    assert_eq!(late, RouteAnswer::StaleEpoch { current: 3 });
    q.route(&persona("p").nowhere().epoch(2)).await;
    q.route(&persona("p").pool("a").epoch(3)).await;
}

#[tokio::test]
async fn a_persona_that_stays_is_told_where_it_is() {
    let q = fixture().await;
    q.open(&["pool"]).await;
    q.route(&persona("p")).await;
    let stays = persona("p").epoch(2);
    let mut route = stays.route();
    route.target = Target::Unchanged;
    let answer = q.ns.route(&route).await.expect("an answer");
    let expected = RouteAnswer::Routed {
        from: None,
        pool: Some("pool".to_owned()),
        queued: 0,
    };
    assert_eq!(answer, expected);
}

#[tokio::test]
async fn a_pool_is_not_empty_while_a_worker_that_has_gone_still_holds_a_task() {
    let q = fixture().await;
    q.open(&["a", "b"]).await;
    q.route(&persona("p").pool("a")).await;
    q.enqueue("p", "t").await;
    q.worker("w", "a", 1).await.take_one().await;
    q.route(&persona("p").pool("b")).await;
    q.ns.deregister("a", "w").await.expect("an answer");
    let busy = CloseAnswer::Busy {
        members: 0,
        queued: 0,
        running: 1,
    };
    assert_eq!(q.ns.close("a", 0).await.expect("an answer"), busy);
    q.ns.forget_worker("w").await.expect("forgotten");
    let closed = q.ns.close("a", 0).await.expect("an answer");
    assert_eq!(closed, CloseAnswer::Closed);
}

#[tokio::test]
async fn personas_pools_and_namespaces_are_listed() {
    let q = fixture().await;
    q.open(&["a"]).await;
    assert_eq!(q.queue.namespaces().await.expect("a list"), [""; 0]);
    for name in ["p1", "p2"] {
        q.route(&persona(name).pool("a")).await;
    }
    let mut personas = q.ns.personas().await.expect("a list");
    personas.sort();
    assert_eq!(personas, ["p1", "p2"]);
    assert_eq!(q.ns.pools().await.expect("a list"), ["a"]);
    assert_eq!(q.queue.namespaces().await.expect("a list"), ["team"]);
}

#[tokio::test]
async fn the_epoch_is_what_the_controller_said_last() {
    let q = fixture().await;
    q.open(&["pool"]).await;
    assert_eq!(q.stats("pool").await.epoch, None);
    q.ns.set_epoch(Some("7")).await.expect("set");
    assert_eq!(q.stats("pool").await.epoch.as_deref(), Some("7"));
    q.ns.set_epoch(None).await.expect("taken back");
    assert_eq!(q.stats("pool").await.epoch, None);
}

#[tokio::test]
async fn names_that_would_break_out_of_their_key_never_reach_redis() {
    let q = fixture().await;
    for name in ["", "a b", "a:b", "{x}", "*"] {
        assert!(q.ns.open(name).await.is_err(), "{name:?}");
        assert!(q.ns.route(&persona(name).route()).await.is_err());
        assert!(q.queue.namespace(name).is_err());
    }
}

#[tokio::test]
async fn a_pool_is_not_opened_again_by_who_has_not_seen_it_closed() {
    let q = fixture().await;
    let closings = async || q.ns.closings().await.expect("a count");
    let open_again = async |seen| q.ns.open_again("a", seen).await.expect("an answer");
    let is_open = async || q.stats("a").await.open;
    let at_first = closings().await;
    assert!(open_again(at_first).await && is_open().await);
    q.ns.close("a", 1).await.expect("closed");
    assert!(!open_again(at_first).await && !is_open().await);
    let seen = closings().await;
    q.ns.close("a", 1).await.expect("closed");
    assert!(!open_again(seen).await && !is_open().await);
    assert!(open_again(closings().await).await && is_open().await);
}
