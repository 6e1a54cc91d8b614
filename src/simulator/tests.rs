use super::*;

fn options(arguments: &[&str]) -> Options {
    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }
    let line = ["simulate"].iter().chain(arguments);
    <Line as clap::Parser>::parse_from(line).options
}

fn totals_of(arguments: &[&str]) -> Vec<Total> {
    let options = options(arguments);
    totals(&options, options.pool()).expect("traces")
}

#[test]
fn a_deterministic_load_is_left_alone_once_it_is_served() {
    let all = totals_of(&[
        "--trace",
        "constant",
        "--policy",
        "ours",
        "--pools",
        "1",
        "--duration",
        "20m",
    ]);
    let total = &all[0];
    assert_eq!(total.row.changes, 0, "{:?}", total.said);
    assert!(
        total.row.late < 60,
        "the first seconds of an empty pool: {}",
        total.row.late
    );
}

#[test]
fn a_random_load_of_constant_rate_brings_four_changes_an_hour_on_average() {
    let all = totals_of(&[
        "--trace",
        "poisson",
        "--policy",
        "ours",
        "--pools",
        "4",
        "--duration",
        "1h",
    ]);
    let total = &all[0];
    let settled = total.row.changes;
    assert!(settled <= 4 * 4, "{settled} changes: {:#?}", total.said);
}

#[test]
fn fewer_than_a_tenth_of_the_late_tasks_of_tuned_keda_and_nothing_killed() {
    let all = totals_of(&[
        "--trace",
        "poisson,step,ramp,bursts,heavy-tail,diurnal",
        "--policy",
        "ours,keda-tuned",
        "--pools",
        "1",
        "--duration",
        "30m",
    ]);
    for pair in all.chunks(2) {
        let (ours, keda) = (&pair[0].row, &pair[1].row);
        assert!(ours.late * 10 <= keda.late, "{ours:?}\n{keda:?}");
        assert_eq!((ours.killed, ours.busy_victims), (0, 0), "{ours:?}");
        let most = if ours.trace == "bursts" { 1.5 } else { 1.15 };
        assert!(ours.cost <= most, "{ours:?}");
        if ["step", "bursts"].contains(&ours.trace.as_str()) {
            assert!(ours.reversals <= ours.bursts, "{ours:?}");
        }
    }
}

#[test]
fn every_task_is_answered_also_from_zero_and_zero_comes_after_the_idle_timeout() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("two.csv");
    let tasks = |second: u32| format!("{second},1.5\n").repeat(20);
    std::fs::write(&path, tasks(10) + &tasks(500)).expect("written");
    let path = path.to_str().expect("a path");
    for total in totals_of(&["--trace", path, "--pools", "1", "--min", "0"]) {
        let name = total.policy.name();
        assert!(total.run.waits.iter().all(Option::is_some), "{name}");
        let pods_at = |second: usize| total.run.points[second].pods;
        if total.policy == PolicyKind::Ours {
            assert_eq!(
                (pods_at(5), pods_at(12), pods_at(35), pods_at(60)),
                (0, 5, 5, 0)
            );
        }
    }
}

#[test]
fn the_oracle_keeps_every_wait_at_the_least_cost() {
    for total in totals_of(&[
        "--pools",
        "1",
        "--duration",
        "10m",
        "--policy",
        "oracle,ours",
    ]) {
        if total.policy == PolicyKind::Oracle {
            assert_eq!(
                (total.row.late, total.row.cost),
                (0, 1.0),
                "{}",
                total.trace
            );
        }
    }
}

#[test]
fn an_even_load_costs_hardly_more_than_the_oracle_and_stands_still() {
    for total in totals_of(&["--trace", "constant", "--policy", "ours"]) {
        assert!(total.row.cost <= 1.15, "{}", total.row.cost);
        assert_eq!(total.row.changes, 0, "after five minutes");
    }
}

#[test]
fn table_csv_and_plot_are_written() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str| {
        folder
            .path()
            .join(name)
            .to_str()
            .expect("a path")
            .to_owned()
    };
    let (csv, svg) = (file("runs.csv"), file("runs.svg"));
    let options = options(&[
        "--trace",
        "step",
        "--pools",
        "1",
        "--duration",
        "60s",
        "--csv",
        &csv,
        "--svg",
        &svg,
        "--explain",
    ]);
    let text = run(&options).expect("a table");
    assert!(text.contains("| step  | ours "), "{text}");
    assert!(
        text.contains("slots, target wait 500ms"),
        "it explains: {text}"
    );
    let csv = std::fs::read_to_string(csv).expect("written");
    assert!(
        csv.starts_with(
            "trace,policy,seconds,queued,running,ready_pods,pods\nstep,ours,0,0,0,1,1\n"
        )
    );
    let svg = std::fs::read_to_string(svg).expect("written");
    assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n") && svg.contains("keda-tuned"));
}

#[test]
fn the_same_seed_is_the_same_run() {
    let options = options(&["--trace", "bursts", "--pools", "1", "--duration", "5m"]);
    assert_eq!(
        run(&options).expect("a table"),
        run(&options).expect("a table")
    );
}
