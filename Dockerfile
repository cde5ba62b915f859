# Build with `docker build -t tributary .`; docs/install.md describes how to run it.

# Both stages use the same Debian release, so the binary finds the C library it was linked with.
FROM rust:1.95.0-slim-bookworm AS build
WORKDIR /build
COPY Cargo.toml Cargo.lock ./
COPY crates crates
RUN cargo build --release --locked --bin tributary

FROM debian:bookworm-slim
RUN useradd --uid 7878 --user-group --no-create-home --home-dir /var/lib/tributary \
        --shell /usr/sbin/nologin tributary \
    && install -d -m 700 -o tributary -g tributary /var/lib/tributary
COPY --from=build /build/target/release/tributary /usr/local/bin/tributary
COPY LICENSE /usr/share/doc/tributary/LICENSE
# A numeric id: platforms that forbid root can verify from the image that this is another user.
USER 7878:7878
WORKDIR /var/lib/tributary
EXPOSE 7878
# The image contains no HTTP client, so Bash sends the request. It requests /livez, which ignores
# the shards, because a restart of this container would not repair a dead database.
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s CMD ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/7878 && printf 'GET /livez HTTP/1.0\\r\\nHost: localhost\\r\\n\\r\\n' >&3 && read -r _ status _ <&3 && [ \"$status\" = 200 ]"]
ENTRYPOINT ["/usr/local/bin/tributary"]
CMD ["serve", "--config", "/etc/tributary/tributary.toml"]
