//! How many servers keep the wait short: Erlang's formula for delay systems.

/// Smallest number of servers, `most` at most, with P(wait > `patience` mean service times) <=
/// `share` where tasks of an offered load of `load` erlangs (arrival rate x mean service time) come
/// at random:
///
/// ```text
/// P(wait > t) = C(c, a) e^(-(c - a) t/S),   C(c, a) = B / (1 - a/c (1 - B))
/// ```
///
/// C is Erlang's C, made from Erlang's B by the recursion B(n) = a B(n-1) / (n + a B(n-1)), in which
/// nothing can overflow (L. Kleinrock, Queueing Systems I, 3.4; ITU Teletraffic Engineering
/// Handbook, 7.3 and 9.2).
pub fn servers(load: f64, patience: f64, share: f64, most: u32) -> u32 {
    if load.is_nan() || load <= 0.0 {
        return 0;
    }
    let mut blocked = 1.0;
    for count in 1..most {
        let c = f64::from(count);
        blocked = load * blocked / (c + load * blocked);
        if c > load && tail(load, c, blocked, patience) <= share {
            return count;
        }
    }
    most
}

fn tail(load: f64, c: f64, blocked: f64, patience: f64) -> f64 {
    let waits = blocked / (1.0 - load / c * (1.0 - blocked));
    waits * (-(c - load) * patience).exp()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn chance(load: f64, count: u32, patience: f64) -> f64 {
        let mut blocked = 1.0;
        for c in 1..=count {
            blocked = load * blocked / (f64::from(c) + load * blocked);
        }
        tail(load, f64::from(count), blocked, patience)
    }

    #[test]
    fn agrees_with_published_tables() {
        // One server: P(wait) is its utilization. Two at half load: 1/3.
        assert!((chance(0.5, 1, 0.0) - 0.5).abs() < 1e-12);
        assert!((chance(1.0, 2, 0.0) - 1.0 / 3.0).abs() < 1e-12);
        // Erlang's table: a = 10, c = 14: C = 0.1741.
        assert!((chance(10.0, 14, 0.0) - 0.1741).abs() < 5e-4);
    }

    #[test]
    fn thousands_of_servers_are_counted_without_overflow() {
        let count = servers(9_500.0, 0.5, 0.05, 10_000);
        assert!((9_500..9_600).contains(&count), "{count}");
        assert_eq!(servers(1e9, 0.5, 0.05, 10_000), 10_000);
        assert_eq!(servers(f64::NAN, 0.5, 0.05, 10), 0);
    }

    proptest! {
        #[test]
        fn is_the_smallest_that_suffices(load in 0.01f64..500.0, patience in 0.0f64..5.0) {
            let count = servers(load, patience, 0.05, 10_000);
            prop_assert!(f64::from(count) > load);
            prop_assert!(chance(load, count, patience) <= 0.05);
            if f64::from(count - 1) > load {
                prop_assert!(chance(load, count - 1, patience) > 0.05);
            }
        }

        #[test]
        fn more_load_never_needs_fewer(load in 0.0f64..500.0, more in 0.0f64..50.0) {
            prop_assert!(servers(load, 0.5, 0.05, 10_000) <= servers(load + more, 0.5, 0.05, 10_000));
        }
    }
}
