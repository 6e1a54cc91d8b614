//! Ids of the entries of a task's output: `<ms>-<number>`, as Redis' streams have them.

fn parts(id: &str) -> (u64, u64) {
    let (ms, number) = id.split_once('-').unwrap_or((id, "0"));
    (
        ms.parse::<u64>().unwrap_or(0),
        number.parse::<u64>().unwrap_or(0),
    )
}

/// Whether an entry comes after another; all come after none.
pub fn is_after(id: &str, last: Option<&str>) -> bool {
    last.is_none_or(|last| parts(id) > parts(last))
}

/// The last id that is before this one.
pub fn before(id: &str) -> String {
    match parts(id) {
        (0, 0) => "0-0".to_owned(),
        (ms, 0) => format!("{}-{}", ms - 1, u64::MAX),
        (ms, number) => format!("{ms}-{}", number - 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_ordered_by_number_not_by_letter() {
        assert!(is_after("1-0", None));
        assert!(is_after("10-0", Some("9-5")));
        assert!(is_after("9-10", Some("9-9")));
        assert!(!is_after("9-9", Some("9-9")));
        assert!(!is_after("9-9", Some("10-0")));
    }

    #[test]
    fn nothing_is_between_an_entry_and_the_one_before() {
        assert_eq!(before("7-3"), "7-2");
        assert_eq!(before("7-0"), "6-18446744073709551615");
        assert_eq!(before("0-0"), "0-0");
    }
}
