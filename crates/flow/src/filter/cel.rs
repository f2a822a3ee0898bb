//! Filter expressions in CEL over the variable `_flow`, a `flow.Flow`.
//!
//! The `cel` crate parses; types are checked here against the API's schema, so that a wrong field is refused and not
//! silently false. Evaluation reads the compact flow: nothing is converted that the expression does not name. It takes
//! bounded time and memory, whatever the text.

mod eval;
mod fields;
mod lower;
mod schema;
mod value;

use ::cel::Env;

use self::{eval::Node, schema::Type};
use crate::FlowView;

/// A compiled expression.
#[derive(Clone, Debug)]
pub(super) struct Expression {
    root: Node,
}

/// Why a text is no filter expression.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(super) enum InvalidExpression {
    #[error("the CEL expression has {length} bytes: at most {MAX_LENGTH} are allowed")]
    TooLong { length: usize },
    #[error(
        "the CEL expression is nested too deeply: at most {MAX_BRACKETS} brackets and {MAX_DEPTH} operations"
    )]
    TooDeep,
    #[error("parsing the CEL expression: {0}; try again")]
    Thread(String),
    #[error("error compiling CEL expression: {0}")]
    Syntax(String),
    #[error("error compiling CEL expression: {0}")]
    Type(String),
    #[error("error compiling CEL expression: got \"{0}\", wanted \"bool\" result type")]
    Result(Type),
}

/// Longest text of an expression, bytes.
const MAX_LENGTH: usize = 2048;
/// How deeply brackets, and how deeply operations, may be nested.
const MAX_BRACKETS: usize = 24;
const MAX_DEPTH: u16 = 48;
/// The generated parser takes up to 200 KiB of stack per bracket, more than a caller's thread may have.
const PARSER_STACK: usize = 16 << 20;

impl Expression {
    /// Parses and checks.
    ///
    /// # Errors
    /// The text is no expression, names what does not exist, or its result is not a bool.
    pub(super) fn compile(text: &str) -> Result<Self, InvalidExpression> {
        if text.len() > MAX_LENGTH {
            return Err(InvalidExpression::TooLong { length: text.len() });
        }
        if brackets(text) > MAX_BRACKETS {
            return Err(InvalidExpression::TooDeep);
        }
        let failed = |cause: String| InvalidExpression::Thread(cause);
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("cel".to_owned()).stack_size(PARSER_STACK);
            let parsing = thread.spawn_scoped(scope, || Self::parse(text));
            let parsing = parsing.map_err(|error| failed(error.to_string()))?;
            parsing.join().unwrap_or_else(|_panic| Err(failed("the parser panicked".to_owned())))
        })
    }

    fn parse(text: &str) -> Result<Self, InvalidExpression> {
        // Without the standard macros: `has`, `exists` and their like stay calls.
        let parser = Env::default().parser().max_recursion_depth(MAX_DEPTH).error_recovery_limit(1);
        let parsed = parser.parse(text).map_err(|errors| {
            let first =
                errors.errors.first().map(|error| format!("{}:{}: {}", error.pos.0, error.pos.1, error.msg));
            InvalidExpression::Syntax(first.unwrap_or_else(|| errors.to_string()))
        })?;
        let (root, kind) = lower::lower(&parsed, MAX_DEPTH)?;
        if kind == Type::Bool { Ok(Self { root }) } else { Err(InvalidExpression::Result(kind)) }
    }

    /// Whether the result is true; one that cannot be evaluated for this flow does not match.
    pub(super) fn matches(&self, view: &FlowView<'_>) -> bool {
        eval::is_true(&self.root, view)
    }
}

/// Greatest number of brackets that are open at one place; those in texts count too.
fn brackets(text: &str) -> usize {
    let (mut open, mut most) = (0_usize, 0);
    for byte in text.bytes() {
        match byte {
            b'(' | b'[' | b'{' => open += 1,
            b')' | b']' | b'}' => open = open.saturating_sub(1),
            _ => {}
        }
        most = most.max(open);
    }
    most
}

#[cfg(test)]
mod tests;
