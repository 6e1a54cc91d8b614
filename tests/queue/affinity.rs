//! What the workers' model servers hold, and what personas need of them.

use crate::support::{fixture, persona};

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
