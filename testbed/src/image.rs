//! OCI images without a Docker engine: a few files on scratch, written as one reproducible tar.
