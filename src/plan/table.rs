//! A forecast in words.

use std::fmt::{self, Display, Formatter};

use super::forecast::{Forecast, Layout, Pool};
use crate::api::Phase;

/// Rows of the table; many pools are much alike.
const ROWS: usize = 20;
/// Personas without a place that are named.
const NAMED: usize = 5;

impl Display for Forecast {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.heading(f)?;
        self.sums(f)?;
        pools(f, &self.after)?;
        unplaced(f, &self.after)
    }
}

impl Forecast {
    fn heading(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Layout {
            counted,
            adapters,
            types,
            ..
        } = self.after;
        let types = count(types, "type");
        write!(
            f,
            "{} of {types}, {adapters} with an adapter",
            count(counted, "persona")
        )?;
        match &self.before {
            Some(before) => writeln!(f, "; now {}", before.counted)?,
            None => writeln!(f)?,
        }
        let after = self.after.phase.as_str();
        let line = match &self.before {
            Some(before) if before.phase != self.after.phase => {
                format!("{} -> {after}", before.phase.as_str())
            }
            Some(_) => format!("{after}, as now"),
            None => after.to_owned(),
        };
        writeln!(f, "  phase    {line} ({})", self.after.rule)?;
        if let Some(delay) = self.delay {
            writeln!(
                f,
                "           once the number has stayed so low for {delay}"
            )?;
        }
        Ok(())
    }

    fn sums(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.before.is_some() {
            let Self {
                moves,
                stay,
                come,
                go,
                ..
            } = self;
            write!(
                f,
                "  moves    {moves} move, {stay} stay, {come} come, {go} go"
            )?;
            let waits = match moves {
                0 => "",
                _ => "; each is served where it is until its new pool has a ready worker",
            };
            writeln!(f, "{waits}")?;
        }
        let before = self.before.as_ref();
        let line = |of: &dyn Fn(&Layout) -> String| match before.map(of) {
            Some(before) if before != of(&self.after) => format!("{before} -> {}", of(&self.after)),
            _ => of(&self.after),
        };
        let pools = line(&|layout| layout.pools.len().to_string());
        write!(f, "  pools    {pools}")?;
        match self.retired {
            0 => writeln!(f)?,
            retired => writeln!(
                f,
                "; {} closed and deleted once nobody is there",
                match retired {
                    1 => "1 is".to_owned(),
                    n => format!("{n} are"),
                }
            )?,
        }
        let workers = line(&|layout| {
            range(
                layout,
                |pool| u64::from(pool.min),
                |pool| u64::from(pool.max),
                |n| n.to_string(),
            )
        });
        writeln!(f, "  workers  {workers}")?;
        let memory = line(&|layout| {
            range(
                layout,
                |pool| pool.memory.saturating_mul(pool.min.into()),
                |pool| pool.memory.saturating_mul(pool.max.into()),
                size,
            )
        });
        writeln!(f, "  memory   {memory} asked for by the workers")?;
        let gpus = line(&|layout| {
            range(
                layout,
                |pool| u64::from(pool.min) * u64::from(pool.gpus),
                |pool| u64::from(pool.max) * u64::from(pool.gpus),
                |n| n.to_string(),
            )
        });
        let layouts = before.into_iter().chain([&self.after]);
        let mut all = layouts.flat_map(|layout| &layout.pools);
        if all.any(|pool| pool.gpus > 0) {
            writeln!(f, "  gpus     {gpus}")?;
        }
        match self.after.own {
            0 => Ok(()),
            own => writeln!(f, "  {} on pools of their owners", count(own, "persona")),
        }
    }
}

fn pools(f: &mut Formatter<'_>, layout: &Layout) -> fmt::Result {
    if layout.pools.is_empty() {
        return Ok(());
    }
    let header = [
        "POOL", "CLASS", "PERSONAS", "WORKERS", "SLOTS", "MEMORY", "HELPS",
    ];
    let mut rows = vec![header.map(str::to_owned)];
    rows.extend(
        layout
            .pools
            .iter()
            .take(ROWS)
            .map(|pool| row(pool, layout.phase)),
    );
    let widths: Vec<usize> = (0..header.len())
        .map(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or(0))
        .collect();
    writeln!(f)?;
    for row in &rows {
        let cells = row.iter().zip(&widths);
        let line: Vec<String> = cells
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        writeln!(f, "{}", line.join("  ").trim_end())?;
    }
    match layout.pools.len().saturating_sub(ROWS) {
        0 => Ok(()),
        more => writeln!(f, "and {more} more"),
    }
}

fn row(pool: &Pool, phase: Phase) -> [String; 7] {
    let name = match (phase, pool.name.rsplit_once('-')) {
        // The end of the name is a hash of the persona's uid, which only the cluster knows.
        (Phase::PerPersona, Some((stem, _))) => format!("{stem}-*"),
        _ => pool.name.clone(),
    };
    let helps = match pool.helps {
        0 => "-".to_owned(),
        helps => count(helps, "pool"),
    };
    let memory = |workers: u32| size(pool.memory.saturating_mul(workers.into()));
    [
        name,
        pool.class.clone(),
        pool.personas.to_string(),
        format!("{}..{}", pool.min, pool.max),
        pool.slots.to_string(),
        format!("{}..{}", memory(pool.min), memory(pool.max)),
        helps,
    ]
}

fn unplaced(f: &mut Formatter<'_>, layout: &Layout) -> fmt::Result {
    if layout.unplaced.is_empty() {
        return Ok(());
    }
    writeln!(
        f,
        "\nwithout a place: {}",
        count(layout.unplaced.len(), "persona")
    )?;
    for (name, why) in layout.unplaced.iter().take(NAMED) {
        writeln!(f, "  {name}: {why}")?;
    }
    match layout.unplaced.len().saturating_sub(NAMED) {
        0 => Ok(()),
        more => writeln!(f, "  and {more} more"),
    }
}

fn range(
    layout: &Layout,
    min: impl Fn(&Pool) -> u64,
    max: impl Fn(&Pool) -> u64,
    word: impl Fn(u64) -> String,
) -> String {
    let sum = |of: &dyn Fn(&Pool) -> u64| layout.pools.iter().map(of).fold(0, u64::saturating_add);
    format!("{}..{}", word(sum(&min)), word(sum(&max)))
}

fn count(number: impl Display, what: &str) -> String {
    let number = number.to_string();
    let plural = if number == "1" { "" } else { "s" };
    format!("{number} {what}{plural}")
}

/// Bytes as whole MiB, or as GiB.
fn size(bytes: u64) -> String {
    let mib = bytes >> 20;
    if mib >= 10 << 10 {
        format!("{}Gi", mib >> 10)
    } else {
        format!("{mib}Mi")
    }
}
