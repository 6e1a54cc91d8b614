//! Reading a task's output, from the beginning or from an entry's id.

use persona_operator::queue::submit::{Enqueue, TaskState};
use persona_operator::queue::task::{Chunk, Outcome, OutcomeKind, code};
use persona_operator::queue::work::{Emission, Fenced};

use crate::support::{PAYLOAD, fixture, persona};

#[tokio::test]
async fn output_can_be_read_from_any_entry_on_and_after_the_end() {
    let q = fixture().await;
    q.submit_stream().await;
    let read = async |from: Option<&str>| {
        let output = q.ns.output("t", from).await.expect("an answer");
        output.expect("known")
    };
    assert_eq!(read(None).await.state, TaskState::Queued);
    let w = q.worker("w", "pool", 1).await;
    let task = w.take_one().await;
    for text in ["a", "b", "c"] {
        let chunks = [Chunk::text(text), Chunk::text("!")];
        q.ns.emit("t", &task.fence, &chunks).await.expect("out");
    }
    let all = read(None).await;
    assert_eq!((all.state, all.outcome), (TaskState::Running, None));
    let texts: Vec<_> = all
        .entries
        .iter()
        .flat_map(|(_, chunks)| chunks.iter().map(|chunk| chunk.content.as_str()))
        .collect();
    assert_eq!(texts, ["a", "!", "b", "!", "c", "!"]);
    let rest = read(Some(&all.entries[0].0)).await;
    assert_eq!(rest.entries, all.entries[1..]);
    let last = &all.entries[2].0;
    assert_eq!(read(Some(last)).await.entries, []);
    w.finish(&task).await;
    let end = read(Some(last)).await;
    assert_eq!((end.state, end.entries.len()), (TaskState::Ended, 0));
    assert_eq!(end.outcome.expect("ended").outcome, OutcomeKind::Completed);
}

#[tokio::test]
async fn output_is_read_in_pages_and_the_outcome_comes_with_the_last() {
    let q = fixture().await;
    q.submit_stream().await;
    let w = q.worker("w", "pool", 1).await;
    let task = w.take_one().await;
    for number in 0..4 {
        let chunks = [Chunk::text(number.to_string())];
        q.ns.emit("t", &task.fence, &chunks).await.expect("out");
    }
    w.finish(&task).await;
    let (mut from, mut texts) = (None::<String>, Vec::new());
    for _ in 0..2 {
        let page = q.ns.output_page("t", from.as_deref(), 2).await;
        let page = page.expect("an answer").expect("known");
        assert_eq!((page.entries.len(), page.outcome), (2, None));
        for (id, chunks) in page.entries {
            from = Some(id);
            texts.extend(chunks.into_iter().map(|chunk| chunk.content));
        }
    }
    assert_eq!(texts, ["0", "1", "2", "3"]);
    let last = q.ns.output_page("t", from.as_deref(), 2).await;
    let last = last.expect("an answer").expect("known");
    assert!(last.entries.is_empty() && last.outcome.is_some());
}

#[tokio::test]
async fn a_worker_that_says_too_much_is_not_heard() {
    let q = fixture().await;
    q.open(&["pool"]).await;
    q.route(&persona("p")).await;
    let w = q.worker("w", "pool", 1).await;
    q.enqueue("p", "whole").await;
    let task = w.take_one().await;
    let large = Outcome::completed(Some("x".repeat(6 << 20)), "stop", None);
    let answer = q.ns.finish("whole", &task.fence, &large).await;
    assert_eq!(answer.expect("an answer"), Fenced::Accepted);
    let outcome = q.outcome("whole").await;
    assert_eq!(outcome.outcome, OutcomeKind::Failed);
    assert_eq!(
        outcome.error.expect("an error").code,
        code::ANSWER_TOO_LARGE
    );
    q.submit(&Enqueue {
        stream: true,
        ..Enqueue::new("p", "t", PAYLOAD)
    })
    .await;
    let task = w.take_one().await;
    let chunks = [Chunk::text("x".repeat(3 << 20))];
    for _ in 0..5 {
        let answer = q.ns.emit("t", &task.fence, &chunks).await;
        assert_eq!(answer.expect("an answer"), Fenced::Accepted);
    }
    let answer = q.ns.emit("t", &task.fence, &chunks).await;
    assert_eq!(answer.expect("an answer"), Fenced::Lost);
    w.finish(&task).await;
}

#[tokio::test]
async fn an_emission_with_a_number_counts_once_however_often_it_is_sent() {
    let q = fixture().await;
    q.submit_stream().await;
    let task = q.worker("w", "pool", 1).await.take_one().await;
    for (text, number) in [("a", 1), ("a", 1), ("b", 2), ("a", 1), ("b", 2)] {
        let chunks = [Chunk::text(text)];
        let emission = Emission {
            task: "t",
            fence: &task.fence,
            chunks: &chunks,
        };
        let answer = q.ns.emit_numbered(&[(emission, number)]).await;
        assert_eq!(answer.expect("an answer"), [Fenced::Accepted]);
    }
    let output = q.ns.output("t", None).await.expect("an answer");
    let entries = output.expect("known").entries.into_iter();
    let chunks: Vec<_> = entries.flat_map(|(_, chunks)| chunks).collect();
    assert_eq!(chunks, [Chunk::text("a"), Chunk::text("b")]);
}
