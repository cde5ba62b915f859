//! Values that follow from the settings of a server: its address, its TLS mode and its password.

use std::fmt;

use super::{CONNECTIONS_MAX, ConfigError, Secret, ServerConfig, Tls, fail, read_bounded};

impl ServerConfig {
    /// The host and the port of the address; `None` if it is not of the form host:port.
    pub fn host_and_port(&self) -> Option<(&str, u16)> {
        let (host, port) = self.address.rsplit_once(':')?;
        let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
        Some((host, port.parse().ok()?)).filter(|(host, _)| !host.is_empty())
    }

    /// The TLS mode, with its default resolved.
    pub fn effective_tls(&self) -> Tls {
        let local = self.host_and_port().is_some_and(|(host, _)| {
            host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
        });
        self.tls.unwrap_or(if local { Tls::Disabled } else { Tls::VerifyIdentity })
    }

    /// The password: from the environment, else from the file, else none. Reads the file. None if
    /// a command prints the password.
    pub fn secret(&self) -> Result<Option<Secret>, ConfigError> {
        match (&self.password, &self.password_file) {
            (Some(secret), _) => Ok(Some(secret.clone())),
            (None, _) if self.password_command.is_some() => Ok(None),
            (None, None) => Ok(None),
            (None, Some(path)) => match read_bounded(path) {
                Ok(text) => Ok(Some(Secret(text.trim_end_matches(['\r', '\n']).to_owned()))),
                Err(error) => fail(format!("password_file {}: {error}", path.display())),
            },
        }
    }

    /// The program and its arguments that print the password. Not used if the environment has it.
    pub fn command(&self) -> Option<&[String]> {
        self.password_command.as_deref().filter(|_| self.password.is_none())
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if self.host_and_port().is_none() {
            return fail(format!("address `{}` is not of the form host:port", self.address));
        }
        if self.user.is_empty() {
            return fail("user is missing; set it here, or for all servers in [server_defaults]");
        }
        if !(1..=CONNECTIONS_MAX).contains(&self.connections_max) {
            return fail(format!("connections_max must be from 1 to {CONNECTIONS_MAX}"));
        }
        if self.password_command.as_ref().is_some_and(Vec::is_empty) {
            return fail("password_command must be a list: a program and its arguments");
        }
        self.secret().map(drop)
    }
}

impl Secret {
    /// The password itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}
