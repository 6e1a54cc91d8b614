//! How a request asks for its persona's adapter. Pure.

use sha2::{Digest, Sha256};

use super::server::Fixed;
use crate::api::Adapter;
use crate::provider::{ProviderError, Selection};

/// The name that vLLM has an adapter under: of two personas' adapters of one name each is another one, if their
/// sources are.
pub fn served_name(adapter: &Adapter) -> String {
    let digest = Sha256::digest(&adapter.source);
    format!("{}-{}", adapter.name, hex::encode(&digest[..4]))
}

/// The adapter's own name.
pub fn own_name(served: &str) -> &str {
    match served.rsplit_once('-') {
        Some((name, hash)) if hash.len() == 8 && hex::decode(hash).is_ok() => name,
        _ => served,
    }
}

/// A scale for each adapter of llama.cpp, also for requests without one: its prompt cache takes a request
/// that names none for one of the same adapters as the slot's last (ggml-org/llama.cpp issue 26207).
pub fn scales(fixed: &[Fixed], adapter: Option<&Adapter>) -> Result<Selection, ProviderError> {
    if let Some(adapter) = adapter
        && !fixed.iter().any(|fixed| fixed.is(adapter))
    {
        return Err(ProviderError::Adapter {
            name: adapter.name.clone(),
            message: format!(
                "llama.cpp was started without {}; workers with it are on their way, or model.server.maxAdapters is too low",
                adapter.source
            ),
        });
    }
    if fixed.is_empty() {
        return Ok(Selection::Base);
    }
    let scale = |fixed: &Fixed| {
        let wanted = adapter.is_some_and(|adapter| fixed.is(adapter));
        (fixed.id, f64::from(u8::from(wanted)))
    };
    Ok(Selection::Scales(fixed.iter().map(scale).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixed(id: u32, path: &str) -> Fixed {
        Fixed {
            id,
            path: path.to_owned(),
        }
    }

    fn adapter(name: &str, source: &str) -> Adapter {
        Adapter {
            name: name.to_owned(),
            source: source.to_owned(),
        }
    }

    #[test]
    fn every_adapter_of_llama_cpp_has_a_scale_in_every_request() {
        let two = [fixed(0, "/models/a.gguf"), fixed(1, "/models/b.gguf")];
        let a = adapter("a", "a.gguf");
        assert_eq!(
            scales(&two, Some(&a)),
            Ok(Selection::Scales(vec![(0, 1.0), (1, 0.0)]))
        );
        assert_eq!(
            scales(&two, None),
            Ok(Selection::Scales(vec![(0, 0.0), (1, 0.0)]))
        );
        assert_eq!(scales(&[], None), Ok(Selection::Base));
        let error = scales(&two, Some(&adapter("c", "c.gguf"))).expect_err("it is not there");
        assert!(error.to_string().contains("c.gguf"), "{error}");
    }

    #[test]
    fn adapters_of_one_name_are_told_apart_by_their_sources() {
        let (one, two) = (adapter("v1", "/one"), adapter("v1", "/two"));
        assert_ne!(served_name(&one), served_name(&two));
        assert_eq!(served_name(&one), served_name(&adapter("v1", "/one")));
        for name in ["v1", "legal-v1"] {
            assert_eq!(own_name(&served_name(&adapter(name, "/one"))), name);
        }
        for foreign in ["legal-v1", "legal-vacation"] {
            assert_eq!(own_name(foreign), foreign);
        }
    }
}
