//! A run's numbers as a table for people and as CSV.

use std::fmt::Write;

use super::outcome::Outcome;

/// A pool starts at its minimum; it has settled after this, ms.
const SETTLED: u64 = 300_000;

/// One line of the table.
#[derive(Clone, Debug)]
pub struct Row {
    /// Name of the trace.
    pub trace: String,
    /// Name of the policy.
    pub policy: String,
    /// Tasks of the trace.
    pub tasks: u64,
    /// Rises of the load.
    pub bursts: u64,
    /// Pod-seconds over the oracle's.
    pub cost: f64,
    /// Pod-seconds.
    pub pod_seconds: f64,
    /// Tasks that waited longer than targetWait.
    pub late: u64,
    /// Waits in seconds: p50, p95, p99.
    pub waits: [f64; 3],
    /// Changes of the wanted size after the first five minutes.
    pub changes: u64,
    /// How often it began to shrink after it had grown.
    pub reversals: u64,
    /// Pods taken away while they ran tasks.
    pub busy_victims: u64,
    /// Tasks that were cut short.
    pub killed: u64,
}

impl Row {
    /// Of a run.
    pub fn new(
        trace: &str,
        policy: &str,
        bursts: u64,
        run: &Outcome,
        oracle: &Outcome,
        target: u64,
    ) -> Self {
        let seconds = |ms: u64| ms as f64 / 1000.0;
        Self {
            trace: trace.to_owned(),
            policy: policy.to_owned(),
            tasks: run.waits.len() as u64,
            bursts,
            cost: run.pod_ms as f64 / oracle.pod_ms.max(1) as f64,
            pod_seconds: seconds(run.pod_ms),
            late: run.late(target),
            waits: [0.5, 0.95, 0.99].map(|share| seconds(run.quantile(share))),
            changes: run.changes_after(SETTLED),
            reversals: run.turns,
            busy_victims: run.busy_victims,
            killed: run.killed,
        }
    }
}

/// The table, as Markdown.
pub fn table(rows: &[Row]) -> String {
    let head = [
        "trace",
        "policy",
        "tasks",
        "pod-seconds",
        "/ oracle",
        "late",
        "late %",
        "p50 s",
        "p95 s",
        "p99 s",
        "changes",
        "reversals / bursts",
        "busy victims",
        "killed",
    ];
    let cells = rows.iter().map(|row| {
        let [p50, p95, p99] = row.waits.map(|wait| format!("{wait:.2}"));
        vec![
            row.trace.clone(),
            row.policy.clone(),
            row.tasks.to_string(),
            format!("{:.0}", row.pod_seconds),
            format!("{:.2}", row.cost),
            row.late.to_string(),
            format!("{:.2}", 100.0 * row.late as f64 / row.tasks.max(1) as f64),
            p50,
            p95,
            p99,
            row.changes.to_string(),
            format!("{} / {}", row.reversals, row.bursts),
            row.busy_victims.to_string(),
            row.killed.to_string(),
        ]
    });
    let lines: Vec<Vec<String>> = std::iter::once(head.map(str::to_owned).to_vec())
        .chain(cells)
        .collect();
    let width = |column: usize| {
        lines
            .iter()
            .map(|line| line[column].len())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let mut text = String::new();
    for (number, line) in lines.iter().enumerate() {
        for (column, (cell, width)) in line.iter().zip(&widths).enumerate() {
            let width = *width;
            if column < 2 {
                text += &format!("| {cell:<width$} ");
            } else {
                text += &format!("| {cell:>width$} ");
            }
        }
        text += "|\n";
        if number == 0 {
            for (column, width) in widths.iter().enumerate() {
                let end = if column < 2 { "-" } else { ":" };
                text += &format!("|{}{end}", "-".repeat(width + 1));
            }
            text += "|\n";
        }
    }
    text
}

/// The runs second by second.
pub fn csv(runs: &[(String, String, Outcome)]) -> String {
    let mut text = "trace,policy,seconds,queued,running,ready_pods,pods\n".to_owned();
    for (trace, policy, run) in runs {
        for p in &run.points {
            // Writing into a String does not fail.
            writeln!(
                text,
                "{trace},{policy},{},{},{},{},{}",
                p.at / 1000,
                p.queued,
                p.running,
                p.ready,
                p.pods
            )
            .ok();
        }
    }
    text
}
