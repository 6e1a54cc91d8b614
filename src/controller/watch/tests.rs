use super::*;
use crate::controller::fixture::a_pool;

fn of_uid(name: &str, uid: &str) -> WorkerPool {
    let mut pool = a_pool(name);
    pool.metadata.namespace = Some("n".into());
    pool.metadata.uid = Some(uid.into());
    pool
}

/// Uids of the objects that are told to be gone.
fn gone(writer: &mut Writer<WorkerPool>, event: &Event<WorkerPool>) -> Vec<String> {
    let changes = take_in(writer, event).into_iter();
    let gone = changes.filter(|(_, after)| after.is_none());
    let mut gone: Vec<_> = gone.filter_map(|(before, _)| before?.uid()).collect();
    gone.sort_unstable();
    gone
}

#[test]
fn a_watch_that_begins_anew_tells_what_went_meanwhile() {
    let mut writer = Writer::default();
    let list = |writer: &mut Writer<WorkerPool>, pools: &[(&str, &str)]| {
        assert!(gone(writer, &Event::Init).is_empty());
        for (name, uid) in pools {
            let event = Event::InitApply(of_uid(name, uid));
            assert!(gone(writer, &event).is_empty());
        }
        gone(writer, &Event::InitDone)
    };
    let first = [("a", "1"), ("b", "2"), ("c", "3")];
    assert!(list(&mut writer, &first).is_empty());
    assert_eq!(list(&mut writer, &[("a", "1"), ("c", "4")]), ["2", "3"]);
    assert_eq!(gone(&mut writer, &Event::Delete(of_uid("a", "1"))), ["1"]);
    let applied = Event::Apply(of_uid("c", "4"));
    let changes = take_in(&mut writer, &applied);
    assert!(matches!(&changes[..], [(Some(_), Some(_))]));
}
