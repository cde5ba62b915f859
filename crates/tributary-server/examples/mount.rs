//! Serves the routes of Tributary inside another axum application, under `/timelines`:
//! `cargo run -p tributary-server --example mount -- FOLDER ADDRESS`

use std::env;
use std::error::Error;
use std::net::SocketAddr;
use std::path::Path;

use axum::Router;
use axum::routing::get;
use tokio::net::TcpListener;
use tributary::{Config, Tributary};
use tributary_server::{RouterOptions, router};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [folder, address] = arguments.as_slice() else {
        return Err("usage: mount FOLDER ADDRESS".into());
    };
    let tributary = Tributary::open(&Config::embedded(Path::new(folder))).await?;
    let application = Router::new()
        .route("/", get(async || "The timelines are under /timelines."))
        .nest("/timelines", router(tributary, RouterOptions::default()));
    let listener = TcpListener::bind(address).await?;
    println!("Listening on http://{}", listener.local_addr()?);
    // Without credentials the router refuses clients of other machines, if it gets their addresses.
    let service = application.into_make_service_with_connect_info::<SocketAddr>();
    Ok(axum::serve(listener, service).await?)
}
