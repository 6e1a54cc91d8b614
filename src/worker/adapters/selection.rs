//! How a request asks for its persona's adapter. Pure.

use super::server::Fixed;
use crate::api::Adapter;
use crate::provider::{ProviderError, Selection};

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
}
