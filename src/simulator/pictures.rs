//! What the plots show.

use super::plot::{self, COLORS, Plot, Series};
use super::trace::Trace;
use super::world::Pool;
use super::{Error, Options, PolicyKind, Total, together};

/// For each trace the load in workers, and the pods of each policy.
pub(super) fn plots(totals: &[Total], slots: u32) -> Vec<Plot> {
    let mut plots: Vec<Plot> = Vec::new();
    for total in totals {
        if plots.last().is_none_or(|plot| plot.title != total.trace) {
            let load = total.load.iter().map(|load| load / f64::from(slots));
            plots.push(Plot {
                title: total.trace.clone(),
                x: "seconds".to_owned(),
                y: "pods".to_owned(),
                series: vec![Series {
                    name: "load / slots".to_owned(),
                    points: thinned(load),
                    color: "#bbbbbb",
                    marks: None,
                }],
                log_y: false,
                from_x: 0.0,
            });
        }
        if let Some(plot) = plots.last_mut() {
            let color = COLORS[(plot.series.len() - 1) % COLORS.len()];
            plot.series.push(Series {
                name: total.policy.name().to_owned(),
                points: thinned(total.run.points.iter().map(|point| point.pods as f64)),
                color,
                marks: None,
            });
        }
    }
    plots
}

/// Some hundred points of values that come each second: the highest of some seconds each.
fn thinned(values: impl Iterator<Item = f64>) -> Vec<(f64, f64)> {
    let values: Vec<f64> = values.collect();
    let step = values.len().div_ceil(600).max(1);
    let highest = |part: &[f64]| part.iter().copied().fold(0.0, f64::max);
    let parts = values.chunks(step).enumerate();
    parts
        .map(|(number, part)| ((number * step) as f64, highest(part)))
        .collect()
}

/// Tasks that would run each second if nobody ever waited.
pub(super) fn load(traces: &[Trace]) -> Vec<f64> {
    let seconds = traces
        .iter()
        .map(|trace| trace.ends / 1000)
        .max()
        .unwrap_or(0);
    let mut load = vec![0.0; usize::try_from(seconds).unwrap_or(0) + 1];
    for job in traces.iter().flat_map(|trace| &trace.jobs) {
        let (from, to) = (job.at.div_ceil(1000), (job.at + job.service).div_ceil(1000));
        for second in from..to {
            let second = usize::try_from(second).unwrap_or(usize::MAX);
            if let Some(running) = load.get_mut(second) {
                *running += 1.0;
            }
        }
    }
    load
}

/// Late tasks over pod-seconds of all traces together, for several idle timeouts.
pub(super) fn frontier(options: &Options) -> Result<String, Error> {
    let pool = options.pool();
    let made: Vec<Vec<Trace>> = options
        .traces()
        .iter()
        .map(|kind| options.make(kind))
        .collect::<Result<_, _>>()?;
    let sum = |policy: PolicyKind, pool: Pool| {
        let mut sum = (0, 0, 0);
        for traces in &made {
            let (run, _) = together(policy, traces, pool, options.seed);
            sum.0 += run.pod_ms;
            sum.1 += run.late(pool.target_wait);
            sum.2 += run.waits.len() as u64;
        }
        sum
    };
    let (best, _, _) = sum(PolicyKind::Oracle, pool);
    let mut series = Vec::new();
    for (policy, color) in [
        PolicyKind::Ours,
        PolicyKind::KedaTuned,
        PolicyKind::KedaTunedSync1,
        PolicyKind::HpaTuned,
    ]
    .into_iter()
    .zip(COLORS)
    {
        let (mut points, mut marks) = (Vec::new(), Vec::new());
        for seconds in [5, 10, 20, 30, 60, 120] {
            let pool = Pool {
                idle_timeout: seconds * 1000,
                ..pool
            };
            let (pods, late, tasks) = sum(policy, pool);
            points.push((
                pods as f64 / best as f64,
                100.0 * late as f64 / tasks as f64,
            ));
            marks.push(format!("{seconds} s"));
        }
        series.push(Series {
            name: policy.name().to_owned(),
            points,
            color,
            marks: Some(marks),
        });
    }
    Ok(plot::svg(&[Plot {
        title: "What an idle timeout costs and gains, all traces together".to_owned(),
        x: format!(
            "pod-seconds over those of the oracle at {}",
            options.idle_timeout
        ),
        y: format!("% of tasks later than {}", options.target_wait),
        series,
        log_y: true,
        from_x: 0.8,
    }]))
}
