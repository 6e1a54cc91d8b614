//! Quantities of memory, as Kubernetes writes them. Pure.

/// Bytes of a quantity like `64Mi`, `1.5G`, `1e9` or `128974848`, rounded up; none if it is no quantity,
/// or beyond any memory.
pub fn bytes(text: &str) -> Option<u64> {
    let text = text.strip_prefix('+').unwrap_or(text);
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.');
    let (number, suffix) = text.split_at(end.unwrap_or(text.len()));
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits: u128 = format!("{whole}{fraction}").parse().ok()?;
    let (times, over) = unit(suffix)?;
    let places = u32::try_from(fraction.len()).ok()?;
    let over = over.checked_mul(10_u128.checked_pow(places)?)?;
    u64::try_from(digits.checked_mul(times)?.div_ceil(over)).ok()
}

/// What a suffix multiplies by and divides by.
fn unit(suffix: &str) -> Option<(u128, u128)> {
    let binary = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    let decimal = ["k", "M", "G", "T", "P", "E"];
    let small = ["m", "u", "n"];
    let power = |suffixes: &[&str], base: u128| {
        let place = suffixes.iter().position(|known| *known == suffix)?;
        base.checked_pow(u32::try_from(place).ok()? + 1)
    };
    if suffix.is_empty() {
        return Some((1, 1));
    }
    if let Some(times) = power(&binary, 1024).or_else(|| power(&decimal, 1000)) {
        return Some((times, 1));
    }
    if let Some(over) = power(&small, 1000) {
        return Some((1, over));
    }
    let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
    let power = 10_u128.checked_pow(exponent.unsigned_abs())?;
    Some(if exponent < 0 { (1, power) } else { (power, 1) })
}

#[cfg(test)]
mod tests {
    use super::bytes;

    #[test]
    fn quantities_are_read_in_every_form_that_kubernetes_knows() {
        for (text, expected) in [
            ("0", 0),
            ("128974848", 128_974_848),
            ("64Mi", 64 << 20),
            ("1.5Gi", 3 << 29),
            ("+2Ki", 2048),
            (".5k", 500),
            ("1.", 1),
            ("1e9", 1_000_000_000),
            ("12E2", 1200),
            ("5e-1", 1),
            ("1E", 1_000_000_000_000_000_000),
            ("2Ei", 2 << 60),
            ("100m", 1),
            ("1500m", 2),
            ("0.1Ki", 103),
        ] {
            assert_eq!(bytes(text), Some(expected), "{text}");
        }
        for text in [
            "", ".", "-1", "Gi", "1.2.3", "1 Gi", "1gi", "1e", "1e99", "64E", "1KiB",
        ] {
            assert_eq!(bytes(text), None, "{text}");
        }
    }
}
