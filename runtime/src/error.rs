//! Errors as text.

use std::error::Error;

/// An error and its causes in one line, separated by `: `.
///
/// Each error adds its own words: a cause that its text repeats is shown once. Of an API server's refusal only message, code
/// and reason are shown: `kube` would print the whole answer.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut texts: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(kube::Error::Api(status)) = error.downcast_ref() {
            texts.push(format!("{} ({} {})", status.message, status.code, status.reason));
            break;
        }
        next = error.source();
        let mut text = error.to_string();
        if let Some(own) = next.and_then(|cause| text.strip_suffix(&cause.to_string())) {
            text.truncate(own.trim_end_matches([':', ' ']).len());
        }
        if !text.is_empty() && texts.last().is_none_or(|last| !last.contains(&text)) {
            texts.push(text);
        }
    }
    texts.join(": ")
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn a_cause_that_the_text_before_contains_is_left_out() {
        let error = anyhow!("refused").context("connect: refused").context("read the list");
        assert_eq!(chain(error.as_ref()), "read the list: connect: refused");
    }

    #[test]
    fn of_an_api_servers_refusal_only_message_code_and_reason_are_shown() {
        let status = serde_json::json!({"code": 403, "reason": "Forbidden", "message": "no", "details": {"kind": "x"}});
        let error = kube::Error::Api(serde_json::from_value(status).expect("a Status"));
        assert_eq!(chain(&error), "no (403 Forbidden)");
        let of_a_watch = kube::runtime::watcher::Error::InitialListFailed(error);
        let (words, refusal) = (chain(&of_a_watch), "no (403 Forbidden)");
        assert!(words.ends_with(refusal) && words.matches("no").count() == 1, "{words}");
        assert!(!words.contains("details"), "{words}");
    }
}
