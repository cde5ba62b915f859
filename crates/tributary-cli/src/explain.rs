//! `tributary explain USER`: reads a home timeline and prints how it was read, as readable text or
//! as JSON.

use std::fmt::Write;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use tributary::Tributary;
use tributary::explain::{
    Explanation, Failure, MemoryUse, PartState, ShardPart, Step, StepKind, Wave,
};
use tributary::internal::{Draft, Fleet, fleet, rfc3339_ms};
use tributary_server::explanation_json;

use crate::feed::PageArgs;
use crate::terminal::{Cell, Colours, Look, table};
use crate::{Outcome, say};

#[derive(Args, Debug)]
pub(crate) struct Explain {
    #[command(flatten)]
    page: PageArgs,
    /// Print the JSON of `explain` in GET /v1/users/{id}/feed?explain=1
    #[arg(long)]
    json: bool,
}

impl Explain {
    pub(crate) async fn run(self) -> Result<Outcome> {
        let request = self.page.request()?;
        let tributary = Tributary::open_read_only(&self.page.config()?).await?;
        let (draft, explanation) =
            Draft::explained(&tributary, self.page.user, &request, MemoryUse::AsUsual).await;
        let fleet = fleet(&tributary);
        if self.json {
            say(explanation_json(&explanation, fleet)?);
        } else {
            say(readable(&explanation, fleet, Colours::of_output()));
        }
        tributary.close().await;
        Ok(if draft?.is_complete() { Outcome::Done } else { Outcome::Partial })
    }
}

fn readable(explanation: &Explanation, fleet: &Fleet, colours: Colours) -> String {
    let mut text = summary(explanation);
    text.push('\n');
    let rows: Vec<Vec<Cell>> =
        explanation.shards.iter().map(|part| shard_row(part, fleet)).collect();
    let head = ["shard", "followees", "statements", "rows", "examined", "time", "posts", "state"];
    text.push_str(&table(colours, &head, &rows));
    text.push('\n');
    let reasons: Vec<Vec<Cell>> =
        explanation.shards.iter().map(|part| reason_row(part, fleet)).collect();
    text.push_str(&table(colours, &["shard", "queried", "why"], &reasons));
    text.push_str(&colours.apply(Look::Bold, "\nWaves of queries:\n"));
    for (number, wave) in (1..).zip(&explanation.waves) {
        push_wave(&mut text, number, wave, fleet);
    }
    let steps: Vec<String> = explanation.steps.iter().map(step).collect();
    let _ = write!(text, "\nSteps: {}.", steps.join(", "));
    for (shard, Failure { kind, reason, .. }) in explanation.failures() {
        let _ =
            write!(text, "\nShard {} did not answer: {kind}: {reason}", fleet.shard_name(shard));
    }
    text
}

fn summary(explanation: &Explanation) -> String {
    let (cost, waves) = (explanation.cost(), explanation.waves.len());
    let posts: usize = explanation.shards.iter().map(|part| part.posts).sum();
    let examined = cost.rows_examined.map(|rows| format!(", for which the servers read {rows}"));
    let examined = examined.unwrap_or_default();
    let followees = match explanation.followees {
        Some(followees) => format!("{followees} followees"),
        None => "an unknown number of followees".to_owned(),
    };
    format!(
        "Home timeline of user {}: {posts} posts of {followees}, read from {} in {}.\n\
         {waves} waves, {} statements, {} rows{examined}.\n",
        explanation.reader,
        explanation.source.name().replace('_', " "),
        ms(explanation.time),
        cost.statements,
        cost.rows,
    )
}

fn shard_row(part: &ShardPart, fleet: &Fleet) -> Vec<Cell> {
    let (look, state) = match part.state {
        PartState::Stale(as_of) => (Look::Warning, format!("stale, as of {}", rfc3339_ms(as_of))),
        PartState::Missing => (Look::Bad, "missing".to_owned()),
        _ => (Look::Good, "complete".to_owned()),
    };
    vec![
        Cell::text(Look::Bold, fleet.shard_name(part.shard)),
        Cell::number(part.followees as u64),
        Cell::number(part.cost.statements),
        Cell::number(part.cost.rows),
        Cell::at_right(known(part.cost.rows_examined)),
        Cell::at_right(ms(part.time)),
        Cell::number(part.posts as u64),
        Cell::text(look, state),
    ]
}

fn reason_row(part: &ShardPart, fleet: &Fleet) -> Vec<Cell> {
    let reasons: Vec<String> = part.reasons.iter().map(ToString::to_string).collect();
    vec![
        Cell::text(Look::Bold, fleet.shard_name(part.shard)),
        Cell::text(Look::Plain, if part.queried { "yes" } else { "no" }),
        Cell::text(Look::Dim, reasons.join("; ")),
    ]
}

fn push_wave(text: &mut String, number: usize, wave: &Wave, fleet: &Fleet) {
    let shards: Vec<&str> = wave.queries.iter().map(|of| fleet.shard_name(of.shard)).collect();
    let _ = writeln!(
        text,
        "{number}. {} for {} on {}, in {}:\n   {}",
        wave.kind.name().replace('_', " "),
        wave.asked,
        shards.join(", "),
        ms(wave.time),
        wave.kind.reason(),
    );
}

fn step(step: &Step) -> String {
    let name = match step.kind {
        StepKind::Wave(index) => format!("wave {}", index + 1),
        kind => kind.name().replace('_', " "),
    };
    format!("{name} {}", ms(step.time))
}

fn known(rows: Option<u64>) -> String {
    rows.map_or_else(|| "-".to_owned(), |rows| rows.to_string())
}

fn ms(time: Duration) -> String {
    format!("{:.3} ms", time.as_secs_f64() * 1_000.0)
}
