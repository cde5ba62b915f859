//! Logins to servers that take effect together, after the configuration was read again.

use std::fmt;
#[cfg(feature = "mysql")]
use std::sync::Arc;

#[cfg(feature = "mysql")]
use super::mysql::{Login, Server};
#[cfg(feature = "mysql")]
use crate::config::{Config, ConfigError};

/// Logins that differ from those in effect.
#[derive(Default)]
pub struct NextLogins {
    #[cfg(feature = "mysql")]
    logins: Vec<(Arc<Server>, Login)>,
}

impl fmt::Debug for NextLogins {
    /// Omits the logins, because they have passwords.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NextLogins").finish_non_exhaustive()
    }
}

impl NextLogins {
    /// The logins to these servers. Each one that differs is tried.
    ///
    /// # Errors
    /// As [`Server::next_login`].
    #[cfg(feature = "mysql")]
    pub(super) async fn of<'a>(
        servers: impl Iterator<Item = &'a Arc<Server>>,
        config: &Config,
    ) -> Result<Self, ConfigError> {
        let mut logins = Vec::new();
        for server in servers {
            if let Some(login) = server.next_login(config).await? {
                logins.push((Arc::clone(server), login));
            }
        }
        Ok(Self { logins })
    }

    /// New connections log in like this from now on. Returns the names of the servers.
    pub fn apply(self) -> Vec<String> {
        #[cfg(feature = "mysql")]
        {
            let apply = |(server, login): (Arc<Server>, Login)| {
                server.connections().log_in_as(login);
                server.gate().server().to_owned()
            };
            self.logins.into_iter().map(apply).collect()
        }
        #[cfg(not(feature = "mysql"))]
        Vec::new()
    }
}
