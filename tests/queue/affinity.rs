//! What the workers' model servers hold, and what personas need of them.

use crate::support::{fixture, numbered, persona, personas};

fn texts(items: &[(&str, &str)]) -> Vec<(String, String)> {
    let texts = items.iter().map(|(a, b)| ((*a).into(), (*b).into()));
    texts.collect()
}

#[tokio::test]
async fn what_a_worker_holds_and_could_not_load_is_in_the_stats_until_it_says_otherwise() {
    let q = fixture().await;
    q.open(&["pool"]).await;
    let mut w = q.unregistered("w", "pool", 1);
    w.register().await;
    let stats = q.stats("pool").await.workers.remove(0);
    assert_eq!((stats.loaded, stats.load_failures), (vec![], vec![]));

    w = w.loaded(&["model/llama3.2:1b", "adapter/law"]);
    w.load_failures = texts(&[("adapter/tax", "no such file:\n\t\"tax.gguf\" é")]);
    w.renew(&[]).await.expect("an answer");
    let stats = q.stats("pool").await.workers.remove(0);
    assert_eq!(stats.loaded, ["adapter/law", "model/llama3.2:1b"]);
    assert_eq!(stats.load_failures, w.load_failures);

    let new = w.clone().instance("w-2").loaded(&["adapter/new"]);
    new.register().await;
    let stats = q.stats("pool").await.workers.remove(0);
    assert_eq!(stats.loaded, ["adapter/new"]);
    assert_eq!(stats.load_failures, w.load_failures);

    w = new.loaded(&[]);
    w.load_failures.clear();
    w.renew(&[]).await.expect("an answer");
    let stats = q.stats("pool").await.workers.remove(0);
    assert_eq!((stats.loaded, stats.load_failures), (vec![], vec![]));
}

#[tokio::test]
async fn what_a_worker_tells_is_bounded() {
    let q = fixture().await;
    q.open(&["pool"]).await;
    let mut w = q.unregistered("w", "pool", 1);
    w.loaded = (0..300).map(|n| format!("adapter/{n:03}")).collect();
    w.loaded[0] = "two\nlines".into();
    // Two bytes a letter, and one before: the cut falls into a letter.
    let words = format!("x{}", "é".repeat(400));
    w.load_failures = (0..20)
        .map(|n| (format!("adapter/{n:02}"), words.clone()))
        .collect();
    w.register().await;
    let stats = q.stats("pool").await.workers.remove(0);
    assert_eq!(stats.loaded, w.loaded[1..257]);
    let cut = format!("x{}", "é".repeat(255));
    let expected: Vec<_> = (0..16)
        .map(|n| (format!("adapter/{n:02}"), cut.clone()))
        .collect();
    assert_eq!(stats.load_failures, expected);
}

#[tokio::test]
async fn what_a_persona_needs_stays_with_it_until_the_next_route() {
    let q = fixture().await;
    q.open(&["pool"]).await;
    let steps = [
        (persona("p"), None),
        (persona("p").needs("adapter/law"), Some("adapter/law")),
        (persona("p").needs("model/m:1b"), Some("model/m:1b")),
        (persona("p"), None),
    ];
    for (number, (spec, expected)) in steps.into_iter().enumerate() {
        q.route(&spec).await;
        // Verbs that write the persona back keep it.
        q.enqueue("p", &format!("t{number}")).await;
        let w = q.worker("w", "pool", 1).await;
        let taken = w.take_one().await;
        w.finish(&taken).await;
        let registration = q.ns.registration("p").await.expect("an answer");
        assert_eq!(registration.expect("known").needs.as_deref(), expected);
    }
}

#[tokio::test]
async fn a_worker_takes_what_its_model_server_holds_first() {
    let q = fixture().await;
    q.open(&["pool"]).await;
    for (name, needs) in [("a", "adapter/a"), ("b", "adapter/b"), ("c", "adapter/c")] {
        q.route(&persona(name).needs(needs)).await;
        q.enqueue(name, &format!("{name}0")).await;
        q.enqueue(name, &format!("{name}1")).await;
    }
    let blind = q.worker("blind", "pool", 1).await;
    blind.takes(1, &["a0"]).await;
    let holder = q.worker("w", "pool", 8).await.loaded(&["adapter/c"]);
    holder.takes(1, &["c0"]).await;
    // One that nobody waits for changes nothing; a persona's own tasks stay in order.
    let other = q.worker("other", "pool", 1).await.loaded(&["adapter/x"]);
    other.takes(1, &["b0"]).await;
    holder.takes(4, &["c1", "a1", "b1"]).await;
}

#[tokio::test]
async fn a_persona_that_needs_nothing_counts_as_loaded_everywhere() {
    let q = fixture().await;
    q.open(&["pool"]).await;
    q.route(&persona("a").needs("adapter/a")).await;
    q.route(&persona("b")).await;
    q.route(&persona("c").needs("adapter/c")).await;
    for name in ["a", "b", "c"] {
        q.enqueue(name, name).await;
    }
    let w = q.worker("w", "pool", 3).await.loaded(&["adapter/c"]);
    w.takes(3, &["b", "c", "a"]).await;
}

#[tokio::test]
async fn what_is_loaded_never_goes_before_a_higher_priority() {
    let q = fixture().await;
    q.open(&["pool"]).await;
    q.route(&persona("low").needs("adapter/low").priority(-1))
        .await;
    q.route(&persona("high").needs("adapter/high").priority(1))
        .await;
    q.enqueue_all("low", numbered("l", 2)).await;
    q.enqueue_all("high", numbered("h", 2)).await;
    let w = q.worker("w", "pool", 8).await.loaded(&["adapter/low"]);
    w.takes(1, &["h0"]).await;
    w.takes(3, &["h1", "l0", "l1"]).await;
}

#[tokio::test]
async fn a_worker_looks_only_so_far_ahead() {
    let q = fixture().await;
    q.open(&["pool"]).await;
    for number in 0..17 {
        let (name, needs) = (format!("p{number:02}"), format!("adapter/{number:02}"));
        q.route(&persona(&name).needs(&needs)).await;
        q.enqueue(&name, &format!("t{number:02}")).await;
    }
    let w = q.worker("w", "pool", 8).await.loaded(&["adapter/16"]);
    w.takes(1, &["t00"]).await; // The seventeenth is too far away; now it is the sixteenth.
    w.takes(1, &["t16"]).await;
}

#[tokio::test]
async fn who_was_put_off_eight_times_goes_first_whoever_takes() {
    let q = fixture().await;
    q.open(&["pool"]).await;
    for (name, needs) in [("a", "adapter/a"), ("b", "adapter/b")] {
        q.route(&persona(name).needs(needs).concurrency(64)).await;
        q.enqueue_all(name, numbered(name, 32)).await;
    }
    let workers = [
        q.worker("w0", "pool", 32).await.loaded(&["adapter/b"]),
        q.worker("w1", "pool", 32).await.loaded(&["adapter/b"]),
    ];
    let mut order = Vec::new();
    for turn in 0..6 {
        order.extend(workers[turn % 2].take(3).await);
    }
    let order: String = order.into_iter().map(|taken| taken.persona).collect();
    // Then b has had what eight of its tasks cost more than a, and may not get further ahead.
    assert_eq!(order, "bbbbbbbbabbabababa");
}

#[tokio::test]
async fn what_is_loaded_does_not_change_the_shares_in_the_long_run() {
    let q = fixture().await;
    q.open(&["pool"]).await;
    q.route(
        &persona("a")
            .needs("adapter/a")
            .weight(3)
            .concurrency(512)
            .length(200),
    )
    .await;
    q.route(
        &persona("b")
            .needs("adapter/b")
            .weight(1)
            .concurrency(512)
            .length(200),
    )
    .await;
    q.enqueue_all("a", numbered("a", 200)).await;
    q.enqueue_all("b", numbered("b", 200)).await;
    let w = q.worker("w", "pool", 512).await.loaded(&["adapter/b"]);
    let mut served = [0, 0];
    for _ in 0..200 {
        let taken = w.take_one().await;
        served[usize::from(taken.persona == "b")] += 1;
    }
    // 150 to 50 by weight, and the eight that what is loaded may be ahead by.
    assert!((48..=60).contains(&served[1]), "{served:?}");
}

#[tokio::test]
async fn who_was_put_off_catches_up_where_nothing_is_preferred() {
    let q = fixture().await;
    q.open(&["pool"]).await;
    for name in ["a", "b"] {
        let needs = format!("adapter/{name}");
        q.route(&persona(name).needs(&needs).concurrency(64)).await;
        q.enqueue_all(name, numbered(name, 32)).await;
    }
    let w = q.worker("w", "pool", 32).await.loaded(&["adapter/b"]);
    assert_eq!(personas(&w.take(8).await), ["b"; 8]);
    let blind = q.worker("blind", "pool", 32).await;
    assert_eq!(personas(&blind.take(8).await), ["a"; 8]);
}
