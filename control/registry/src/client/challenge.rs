//! What a registry asks for in `WWW-Authenticate` (RFC 9110, section 11.6.1).

/// Challenges of one answer at most; nobody means more.
const MOST: usize = 16;

/// A way to show who one is that the registry takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Challenge {
    /// User name and password (RFC 7617).
    Basic,
    /// A token from elsewhere (distribution's "Token Authentication Specification").
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

/// The challenge to be answered among those of an answer's headers: a token before a password.
pub(crate) fn choose<'a>(headers: impl Iterator<Item = &'a str>) -> Option<Challenge> {
    let mut all: Vec<Challenge> = headers.flat_map(parse).take(MOST).collect();
    let bearer = all.iter().position(|challenge| matches!(challenge, Challenge::Bearer { .. }));
    match bearer {
        Some(at) => Some(all.swap_remove(at)),
        None => all.pop(),
    }
}

fn parse(header: &str) -> Vec<Challenge> {
    let mut challenges = Vec::new();
    let mut scheme = "";
    let mut parameters: Vec<(String, String)> = Vec::new();
    let mut rest = header;
    while let Some((word, after)) = token(rest) {
        let value = after.trim_start().strip_prefix('=').and_then(|after| value(after.trim_start()));
        match value {
            Some((value, after)) => {
                parameters.push((word.to_ascii_lowercase(), value));
                rest = after;
            }
            // A word without a value begins the next challenge.
            None => {
                challenges.extend(challenge(scheme, &mut parameters));
                scheme = word;
                rest = after;
            }
        }
    }
    challenges.extend(challenge(scheme, &mut parameters));
    challenges
}

fn challenge(scheme: &str, parameters: &mut Vec<(String, String)>) -> Option<Challenge> {
    let parameters = std::mem::take(parameters);
    let get = |name: &str| parameters.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
    if scheme.eq_ignore_ascii_case("basic") {
        return Some(Challenge::Basic);
    }
    let bearer = scheme.eq_ignore_ascii_case("bearer");
    bearer.then(|| Some(Challenge::Bearer { realm: get("realm")?, service: get("service"), scope: get("scope") }))?
}

/// The next word, after commas and blanks.
fn token(text: &str) -> Option<(&str, &str)> {
    let text = text.trim_start_matches([',', ' ', '\t']);
    let end = text.find(|c: char| !(c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c))).unwrap_or(text.len());
    let (word, rest) = text.split_at_checked(end)?;
    (!word.is_empty()).then_some((word, rest))
}

/// A token or a quoted string, without its quotes.
fn value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ', '\t']).unwrap_or(text.len());
        let (value, rest) = text.split_at_checked(end)?;
        return Some((value.to_owned(), rest));
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, c)) = characters.next() {
        match c {
            '"' => return Some((value, quoted.get(at + 1..)?)),
            '\\' => value.extend(characters.next().map(|(_, c)| c)),
            c => value.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Option<Challenge> {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        Some(Challenge::Bearer { realm: realm.to_owned(), service: owned(service), scope: owned(scope) })
    }

    #[test]
    fn challenges_are_read() {
        let choose = |headers: &[&str]| choose(headers.iter().copied());
        assert_eq!(
            choose(&[r#"Bearer realm="https://a/token",service="s",scope="repository:o/a:pull,push""#]),
            bearer("https://a/token", Some("s"), Some("repository:o/a:pull,push"))
        );
        assert_eq!(choose(&[r#"bearer  Realm = "x\"y" , service=s"#]), bearer("x\"y", Some("s"), None));
        assert_eq!(choose(&[r#"Basic realm="r""#]), Some(Challenge::Basic));
        assert_eq!(choose(&[r#"Basic realm="r", Bearer realm="t""#]), bearer("t", None, None));
        assert_eq!(choose(&["Basic", r#"Bearer realm="t""#]), bearer("t", None, None));
        assert_eq!(choose(&[r#"Negotiate, Bearer service="s""#, ""]), None);
        assert_eq!(choose(&[r#"Bearer realm="open"#]), None);
    }

    proptest! {
        #[test]
        fn no_header_panics(text in "[Baserim =\",\\\\\\PC]{0,60}") {
            let _ = choose([text.as_str()].into_iter());
        }
    }
}
