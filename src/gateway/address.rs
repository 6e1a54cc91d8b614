//! Which persona a request's `model` means.

use super::auth::Principal;
use super::error::ApiError;

/// Header that says the namespace where neither `model` nor the API key does.
pub const NAMESPACE_HEADER: &str = "x-persona-namespace";

/// A persona in its namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    /// Namespace of the persona.
    pub namespace: String,
    /// Its name.
    pub persona: String,
}

impl Address {
    /// Reads `<persona>` or `<namespace>/<persona>`, for a principal that may ask it.
    ///
    /// # Errors
    /// 400 when the namespace is not said, 403 when the key does not reach it, 404 when no persona
    /// can be called so.
    pub fn resolve(
        model: &str,
        header: Option<&str>,
        principal: &Principal,
    ) -> Result<Self, ApiError> {
        let (namespace, persona) = match model.split_once('/') {
            Some((namespace, persona)) => (Some(namespace), persona),
            None => (header.or(principal.sole_namespace()), model),
        };
        let Some(namespace) = namespace else {
            let message = format!(
                "which namespace? write `model` as `<namespace>/{persona}`, send the header \
                 `{NAMESPACE_HEADER}`, or use an API key of one namespace"
            );
            return Err(ApiError::invalid("model", "namespace_required", message));
        };
        if !is_name(namespace, false) || !is_name(persona, true) {
            let shown: String = model.chars().take(100).collect();
            return Err(ApiError {
                param: Some("model".to_owned()),
                ..ApiError::new(
                    404,
                    "model_not_found",
                    format!("no persona is called `{shown}`"),
                )
            });
        }
        if !principal.may_ask(namespace, persona) {
            let message = format!(
                "the API key `{}` does not reach persona `{persona}` in namespace `{namespace}`",
                principal.name
            );
            return Err(ApiError {
                param: Some("model".to_owned()),
                ..ApiError::new(403, "permission_denied", message)
            });
        }
        Ok(Self {
            namespace: namespace.to_owned(),
            persona: persona.to_owned(),
        })
    }
}

/// A DNS label, or (`dots`) a DNS subdomain: all that Kubernetes names can be.
fn is_name(name: &str, dots: bool) -> bool {
    let limit = if dots { 253 } else { 63 };
    !name.is_empty()
        && name.len() <= limit
        && name.bytes().all(|b| {
            b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || (dots && b == b'.')
        })
}

#[cfg(test)]
mod tests {
    use super::super::auth::tests::principal;
    use super::*;

    #[test]
    fn the_namespace_comes_from_the_model_then_the_header_then_the_key() {
        let all = principal(&["*"], &["*"]);
        let one = principal(&["team-a"], &["*"]);
        let ask = |model, header, who| {
            Address::resolve(model, header, who).map(|a| (a.namespace, a.persona))
        };
        let is = |ns: &str, p: &str| Ok((ns.to_owned(), p.to_owned()));
        assert_eq!(ask("b/helper", Some("c"), &all), is("b", "helper"));
        assert_eq!(ask("helper", Some("c"), &all), is("c", "helper"));
        assert_eq!(ask("helper.v2", None, &one), is("team-a", "helper.v2"));
        let error = ask("helper", None, &all).expect_err("ambiguous");
        assert_eq!(
            (error.status, error.code.as_str()),
            (400, "namespace_required")
        );
        assert_eq!(ask("b/helper", None, &one).expect_err("scope").status, 403);
        assert_eq!(
            ask("helper", Some("b"), &one).expect_err("scope").status,
            403
        );
    }

    #[test]
    fn what_no_persona_can_be_called_is_not_found() {
        let all = principal(&["*"], &["*"]);
        for model in [
            "", "/", "a/", "/b", "a/b/c", "a/B", "a}/b", "a/b:c", "a.b/c", "ä/b",
        ] {
            let error = Address::resolve(model, Some("a"), &all).expect_err(model);
            assert_eq!(error.status, 404, "{model}");
            assert_eq!(error.param.as_deref(), Some("model"));
        }
    }
}
