//! When a provider may be asked again, from the headers of its answer.

use std::time::Duration;

use jiff::Timestamp;

/// Longest patience; a provider that asks for more is asked after that.
pub const LONGEST: Duration = Duration::from_secs(3600);

/// Reads `Retry-After` (RFC 9110: seconds or an HTTP date) and OpenAI's `retry-after-ms`, which goes
/// first. `now` is what a date is compared with. At most [`LONGEST`].
pub fn parse(
    retry_after: Option<&str>,
    retry_after_ms: Option<&str>,
    now: Timestamp,
) -> Option<Duration> {
    retry_after_ms
        .and_then(|text| seconds(text, 1000.0))
        .or_else(|| retry_after.and_then(|text| seconds(text, 1.0).or_else(|| date(text, now))))
        .map(|wait| wait.min(LONGEST))
}

fn seconds(text: &str, per_second: f64) -> Option<Duration> {
    let number: f64 = text.trim().parse().ok()?;
    let wait = (number / per_second).clamp(0.0, LONGEST.as_secs_f64());
    number.is_finite().then(|| Duration::from_secs_f64(wait))
}

fn date(text: &str, now: Timestamp) -> Option<Duration> {
    let then = jiff::fmt::rfc2822::parse(text.trim()).ok()?.timestamp();
    Some(Duration::try_from(then.duration_since(now)).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a timestamp")
    }

    #[test]
    fn seconds_dates_and_milliseconds_are_read() {
        let now = at("2026-11-24T05:00:00Z");
        let read = |after, ms| parse(after, ms, now);
        assert_eq!(read(Some("7"), None), Some(Duration::from_secs(7)));
        assert_eq!(read(Some("0.25"), None), Some(Duration::from_millis(250)));
        assert_eq!(
            read(Some("7"), Some("1500")),
            Some(Duration::from_millis(1500))
        );
        assert_eq!(
            read(Some("Tue, 24 Nov 2026 05:00:30 GMT"), None),
            Some(Duration::from_secs(30))
        );
    }

    #[test]
    fn past_dates_mean_now_and_nonsense_means_nothing() {
        let now = at("2026-11-24T05:00:00Z");
        let read = |after| parse(Some(after), None, now);
        assert_eq!(read("Tue, 24 Nov 2026 04:00:00 GMT"), Some(Duration::ZERO));
        assert_eq!(read("-3"), Some(Duration::ZERO));
        for nonsense in ["", "soon", "NaN", "inf", "Tue, 99 Nov 2026"] {
            assert_eq!(read(nonsense), None, "{nonsense}");
        }
        assert_eq!(parse(None, None, now), None);
    }

    #[test]
    fn patience_has_a_limit() {
        let now = at("2026-11-24T05:00:00Z");
        assert_eq!(parse(Some("1e300"), None, now), Some(LONGEST));
        assert_eq!(
            parse(Some("Wed, 24 Nov 2027 05:00:00 GMT"), None, now),
            Some(LONGEST)
        );
    }
}
