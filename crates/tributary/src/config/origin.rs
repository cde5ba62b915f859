//! Origins of web pages, as the configuration names them.

use std::fmt;
use std::str::FromStr;

/// The origin of a web page: `https://app.example.org`, with a port if it is not the default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin(String);

impl Origin {
    /// The text that browsers send.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Origin {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const WRONG: &str = "not an origin such as https://app.example.org, without a path";
        let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
        let is_host = |byte: u8| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".:-_[]".contains(&byte)
        };
        match host {
            Some(host) if !host.is_empty() && host.bytes().all(is_host) => {
                Ok(Self(text.to_owned()))
            }
            _ => Err(WRONG),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_has_a_scheme_a_host_and_no_path() {
        for good in ["https://a.example", "http://localhost:3000", "https://[::1]:8443"] {
            assert_eq!(good.parse::<Origin>().unwrap().as_str(), good);
        }
        for wrong in ["", "*", "null", "a.example", "https://", "https://a/", "https://A.example"] {
            assert!(wrong.parse::<Origin>().is_err(), "{wrong}");
        }
    }
}
