//! Patterns of DNS and node names.

/// A name in which `*` stands for any run of `-`, `.`, digits and lower-case letters.
#[derive(Clone, Debug)]
pub(super) struct NamePattern(String);

impl NamePattern {
    /// Trims and checks a pattern; `None` when it is empty.
    pub(super) fn parse(text: &str) -> Result<Option<Self>, String> {
        let trimmed = text.trim();
        let name = trimmed.strip_suffix('.').unwrap_or(trimmed).to_lowercase();
        if name.ends_with('.') {
            return Err(format!("multiple trailing dots in pattern \"{text}\""));
        }
        let is_allowed = |c: char| matches!(c, 'a'..='z' | '0'..='9' | '-' | '_' | '.' | '*');
        match name.chars().find(|c| !is_allowed(*c)) {
            Some(_) => Err(format!("'{name}': invalid rune in pattern")),
            None => Ok((!name.is_empty()).then_some(Self(name))),
        }
    }

    pub(super) fn matches(&self, name: &str) -> bool {
        glob(self.0.as_bytes(), name.as_bytes())
    }
}

/// Whole-string match; `*` takes any run of the characters of a DNS name. Linear in the text per star.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Where to go on when the last star takes one more character.
    let mut retry: Option<(usize, usize)> = None;
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            retry = Some((p + 1, t));
            p += 1;
        } else if pattern.get(p) == text.get(t) {
            p += 1;
            t += 1;
        } else if let Some((after_star, taken)) = retry
            && text.get(taken).is_some_and(|c| matches!(c, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.'))
        {
            p = after_star;
            t = taken + 1;
            retry = Some((after_star, t));
        } else {
            return false;
        }
    }
    pattern.get(p..).is_some_and(|rest| rest.iter().all(|c| *c == b'*'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names() {
        for (pattern, name, matches) in [
            ("*.shop.svc", "web.shop.svc", true),
            ("*.shop.svc.", "a.b.shop.svc", true),
            ("WEB.shop", "web.shop", true),
            ("web", "web.shop", false),
            ("*", "with_underscore", false),
            ("with_*", "with_x", true),
            ("*.shop", "Web.shop", false),
        ] {
            assert_eq!(
                NamePattern::parse(pattern).unwrap().unwrap().matches(name),
                matches,
                "{pattern} {name}"
            );
        }
        assert!(NamePattern::parse(" ").unwrap().is_none());
    }

    proptest! {
        #[test]
        fn any_text_is_answered(text in "\\PC*") {
            // A panic fails the test; any answer is right.
            let _answer = NamePattern::parse(&text).is_ok();
        }

        #[test]
        fn glob_equals_its_definition(pattern in "[ab*]{0,6}", text in "[ab]{0,8}") {
            prop_assert_eq!(glob(pattern.as_bytes(), text.as_bytes()), slow_glob(pattern.as_bytes(), text.as_bytes()));
        }
    }

    fn slow_glob(pattern: &[u8], text: &[u8]) -> bool {
        match (pattern.split_first(), text.split_first()) {
            (None, None) => true,
            (Some((b'*', rest)), _) => (0..=text.len()).any(|taken| slow_glob(rest, &text[taken..])),
            (Some((p, rest)), Some((t, tail))) => p == t && slow_glob(rest, tail),
            _ => false,
        }
    }
}
