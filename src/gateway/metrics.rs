//! What the gateway counts (metrics.md).

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Instant;

use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry};

use super::error::CLIENT_CLOSED;

/// From a refusal to the longest answers, in seconds.
const BUCKETS: &[f64] = &[
    0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
];

/// The gateway's metrics.
#[derive(Clone, Debug)]
pub struct Metrics {
    requests: IntCounterVec,
    seconds: HistogramVec,
}

impl Metrics {
    /// Makes and registers them.
    ///
    /// # Errors
    /// Registered before.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let labels = &["route", "code"];
        let requests = IntCounterVec::new(
            Opts::new(
                "persona_gateway_requests_total",
                "Requests answered, by route and status; a stream that broke off counts with the \
                 status of its error, 499 is a client that left",
            ),
            labels,
        )?;
        let seconds = HistogramVec::new(
            HistogramOpts::new(
                "persona_gateway_request_seconds",
                "Time from a request's head to the end of its answer",
            )
            .buckets(BUCKETS.to_vec()),
            labels,
        )?;
        registry.register(Box::new(requests.clone()))?;
        registry.register(Box::new(seconds.clone()))?;
        Ok(Self { requests, seconds })
    }

    /// A request began.
    pub fn begin(&self, route: &'static str) -> Observation {
        Observation(Arc::new(Observed {
            metrics: self.clone(),
            route,
            began: Instant::now(),
            code: AtomicU16::new(CLIENT_CLOSED),
        }))
    }
}

/// A request in flight. It is counted when the last clone is dropped, so that a stream holds one.
#[derive(Clone, Debug)]
pub struct Observation(Arc<Observed>);

#[derive(Debug)]
struct Observed {
    metrics: Metrics,
    route: &'static str,
    began: Instant,
    code: AtomicU16,
}

impl Observation {
    /// How it ended; unsaid, the client left.
    pub fn code(&self, code: u16) {
        self.0.code.store(code, Ordering::Relaxed);
    }
}

impl Drop for Observed {
    fn drop(&mut self) {
        let code = self.code.load(Ordering::Relaxed).to_string();
        let labels = &[self.route, code.as_str()];
        self.metrics.requests.with_label_values(labels).inc();
        let seconds = self.began.elapsed().as_secs_f64();
        self.metrics
            .seconds
            .with_label_values(labels)
            .observe(seconds);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_counts_once_with_its_last_word() {
        let metrics = Metrics::register(&Registry::new()).expect("registers");
        let count = |code| metrics.requests.with_label_values(&["/x", code]).get();
        let request = metrics.begin("/x");
        let stream = request.clone();
        request.code(200);
        drop(request);
        assert_eq!(count("200"), 0);
        stream.code(502);
        drop(stream);
        drop(metrics.begin("/x"));
        assert_eq!((count("200"), count("502"), count("499")), (0, 1, 1));
    }
}
