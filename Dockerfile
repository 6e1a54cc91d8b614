# The operator as one static binary and a CA bundle: docker build -t persona-operator .

# On Alpine the machine's own target is musl, which links statically.
FROM docker.io/library/rust:1.95-alpine AS build
WORKDIR /src
COPY . .
RUN cargo build --locked --release --package persona-operator --bin persona-operator

FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /src/target/release/persona-operator /persona-operator
# A number, because Kubernetes cannot see whether a name is root.
USER 65532:65532
ENTRYPOINT ["/persona-operator"]
