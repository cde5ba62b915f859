//! The checks of a configured fleet: `tributary check --config`, and the page for operators.

use super::survey::{stray_findings, survey};
use crate::config::{Config, ConfigError, Servers};
use crate::fit::Fit;
use crate::shard::Finding;

/// Checks the servers of a configuration, and its placement against samples of user ids.
///
/// # Errors
/// The configuration has no placement for these shards.
pub async fn check_fleet(
    config: &Config,
    servers: &Servers,
) -> Result<Vec<(String, Finding)>, ConfigError> {
    let survey = survey(servers, &config.write).await;
    let mut findings = survey.findings;
    let strays = stray_findings(config, servers, &survey.samples)?;
    match Fit::of(&survey.samples) {
        _ if strays.is_empty() => {}
        Fit::Modulo(order) if config.placement.map.is_none() => {
            let names: Vec<&str> = order.iter().map(|i| servers.shards[*i].name.as_str()).collect();
            if order.is_sorted() {
                findings.extend(strays);
            } else {
                let finding = Finding::error(
                    "wrong_order",
                    "the order of the shards differs from the order in which the rows were placed",
                );
                let cure = format!("list [[shards]] in this order: {}", names.join(", "));
                findings.push(("the fleet".into(), finding.cure(cure)));
            }
        }
        Fit::Map(map) => {
            let names: Vec<&str> =
                map.iter().map(|shard| servers.shards[shard.index()].name.as_str()).collect();
            let finding =
                Finding::error("wrong_placement", "the rows were not placed by this placement.map");
            let cure = format!("set placement.map = {}", name_list(&names));
            findings.push(("the fleet".into(), finding.cure(cure)));
        }
        Fit::Modulo(_) => findings.extend(strays),
        Fit::Unknown => {
            findings.push(("the fleet".into(), unknown_placement(servers.shards.len())));
        }
    }
    Ok(findings)
}

/// The finding that no placement rule fits the rows of this many shards.
pub fn unknown_placement(shards: usize) -> Finding {
    let text = format!(
        "the rows are placed neither by `user_id % {shards}` nor by a larger number of buckets \
         that is a multiple of {shards}"
    );
    Finding::error("unknown_placement", text)
        .cure("name all shards of the fleet, each once; other placement rules are not supported")
}

/// Names as a list in the configuration.
fn name_list(names: &[&str]) -> String {
    let names: Vec<String> = names.iter().map(|name| format!("{name:?}")).collect();
    format!("[{}]", names.join(","))
}
