//! Memory that is a copy of the database, kept so by following each server's log.

#[cfg_attr(not(test), expect(dead_code, reason = "nothing keeps anything in it yet"))]
mod keeper;
