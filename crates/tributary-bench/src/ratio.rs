//! Compares two servers, measured in turn (A B A B), so that other load on the machine affects
//! both.

use std::fmt::{self, Display};

use anyhow::Result;
use serde_json::{Value, json};

use super::drive::{LoadPlan, drive};
use super::report::Report;

/// The result of all rounds, each with server A and server B.
#[derive(Debug)]
pub struct Ratio {
    rounds: Vec<[Round; 2]>,
}

/// The measurements of one server in one round.
#[derive(Debug)]
struct Round {
    /// Answers per second.
    rate: f64,
    p50_us: u64,
    p99_us: u64,
    /// Mean length of an answer's body.
    bytes: f64,
    /// The server's CPU time per answer.
    server_micros: Option<f64>,
    client_cores: Option<f64>,
}

impl Round {
    fn of(report: &Report) -> Self {
        let latencies = report.latencies();
        Self {
            rate: report.rate(),
            p50_us: latencies.value_at_percentile(50.0),
            p99_us: latencies.value_at_percentile(99.0),
            bytes: report.bytes_mean(),
            server_micros: report.server_micros(),
            client_cores: report.client_cores(),
        }
    }
}

/// Measures both servers in turn. Answers are not checked.
///
/// # Errors
/// Those of [`drive`].
pub fn ratio(a: &LoadPlan, b: &LoadPlan, rounds: usize, users: u32) -> Result<Ratio> {
    let mut done = Vec::new();
    for _ in 0..rounds {
        let round =
            |plan: &LoadPlan| drive(plan.clone(), None, users).map(|report| Round::of(&report));
        done.push([round(a)?, round(b)?]);
    }
    Ok(Ratio { rounds: done })
}

impl Ratio {
    fn side(&self, side: usize, value: impl Fn(&Round) -> f64) -> Spread {
        Spread::of(self.rounds.iter().filter_map(|round| round.get(side)).map(value).collect())
    }

    /// The ratio of throughputs A / B in each round.
    fn ratios(&self) -> Spread {
        Spread::of(self.rounds.iter().map(|[a, b]| a.rate / b.rate).collect())
    }

    /// Everything as JSON.
    pub fn json(&self) -> Value {
        let side = |side| {
            json!({
                "answers_per_second": self.side(side, |round| round.rate).json(),
                "p50_us": self.side(side, |round| round.p50_us as f64).json(),
                "p99_us": self.side(side, |round| round.p99_us as f64).json(),
                "answer_bytes_mean": self.side(side, |round| round.bytes).median,
                "server_cpu_us_per_answer":
                    self.side(side, |round| round.server_micros.unwrap_or(f64::NAN)).json(),
                "client_cores": self.side(side, |round| round.client_cores.unwrap_or(f64::NAN)).json(),
            })
        };
        json!({ "rounds": self.rounds.len(), "a": side(0), "b": side(1), "ratio": self.ratios().json() })
    }
}

impl Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "medians of {} rounds in turn (lowest to highest)", self.rounds.len())?;
        for (side, name) in ["A", "B"].into_iter().enumerate() {
            let rate = self.side(side, |round| round.rate);
            let p50 = self.side(side, |round| round.p50_us as f64 / 1_000.0);
            let p99 = self.side(side, |round| round.p99_us as f64 / 1_000.0);
            let bytes = self.side(side, |round| round.bytes).median;
            write!(
                f,
                "{name}: {rate:.0} answers/s of {bytes:.0} bytes, p50 {p50:.3} ms, p99 {p99:.3} ms"
            )?;
            let cores = self.side(side, |round| round.client_cores.unwrap_or(f64::NAN));
            writeln!(f, ", this process {cores:.2} cores")?;
            if self.rounds.iter().all(|round| round[side].server_micros.is_some()) {
                let micros = self.side(side, |round| round.server_micros.unwrap_or(f64::NAN));
                writeln!(f, "   {micros:.1} us of CPU per answer")?;
            }
        }
        write!(f, "A / B: {:.3}", self.ratios())
    }
}

/// The median and the extremes of some values.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Spread {
    median: f64,
    lowest: f64,
    highest: f64,
}

impl Spread {
    fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
        Self {
            median: at(values.len() / 2),
            lowest: at(0),
            highest: at(values.len().saturating_sub(1)),
        }
    }

    fn json(self) -> Value {
        // JSON has no NaN, so a value that was not measured becomes null.
        json!({ "median": self.median, "lowest": self.lowest, "highest": self.highest })
    }
}

impl Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let decimals = f.precision().unwrap_or(0);
        let Self { median, lowest, highest } = self;
        write!(f, "{median:.decimals$} ({lowest:.decimals$} to {highest:.decimals$})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_is_the_median_and_the_ends() {
        let spread = Spread::of(vec![3.0, 1.0, 2.0]);
        assert_eq!(spread, Spread { median: 2.0, lowest: 1.0, highest: 3.0 });
        assert_eq!(format!("{spread:.1}"), "2.0 (1.0 to 3.0)");
        assert_eq!(Spread::of(vec![f64::NAN]).json()["median"], Value::Null);
    }
}
