//! From the parsed text to typed operations.

use std::cmp::Ordering;

use ::cel::common::ast::{CallExpr, Expr, IdedExpr, LiteralValue, operators as op};

use super::{
    InvalidExpression,
    eval::{Arithmetic, Each, Node, TextTest},
    fields,
    schema::{FLOW, Type, enum_value, field_type},
    value::{List, Value},
};
use crate::filter::app::pattern;

/// Name of the variable.
const VARIABLE: &str = "_flow";

/// Translates an expression with at most `depth` operations in one another.
pub(super) fn lower(expression: &IdedExpr, depth: u16) -> Result<(Node, Type), InvalidExpression> {
    let mut scope = Scope { depth_left: depth, too_deep: false, variables: Vec::new() };
    let lowered = scope.lower(&expression.expr);
    lowered.map_err(|text| match scope.too_deep {
        true => InvalidExpression::TooDeep,
        false => InvalidExpression::Type(text),
    })
}

type Typed = (Node, Type);

/// What is around an expression.
struct Scope {
    depth_left: u16,
    too_deep: bool,
    /// Variables of comprehensions.
    variables: Vec<(String, Type)>,
}

impl Scope {
    /// The error is a text for users.
    fn lower(&mut self, expression: &Expr) -> Result<Typed, String> {
        let Some(left) = self.depth_left.checked_sub(1) else {
            self.too_deep = true;
            return Err(String::new());
        };
        self.depth_left = left;
        let lowered = self.lower_one(expression);
        self.depth_left += 1;
        lowered
    }

    fn lower_one(&mut self, expression: &Expr) -> Result<Typed, String> {
        match expression {
            Expr::Literal(literal) => constant(literal),
            Expr::Ident(name) => self.variable(name),
            Expr::Select(select) => {
                if let Some(value) = self.enum_constant(expression) {
                    return Ok((Node::Const(Value::Int(value.into())), Type::Int));
                }
                if let Some(path) = self.flow_path(expression) {
                    return flow_field(&path);
                }
                self.member(&select.operand.expr, &select.field)
            }
            Expr::List(list) if list.optional_indices.is_empty() => self.list(&list.elements),
            Expr::Call(call) => self.call(call),
            _ => Err("maps, messages and optional values cannot be made in a filter".to_owned()),
        }
    }

    fn variable(&self, name: &str) -> Result<Typed, String> {
        // The innermost one of the name.
        if let Some(index) = self.variables.iter().rposition(|(own, _)| own == name) {
            return Ok((Node::Variable(index), self.variables[index].1.clone()));
        }
        match name {
            VARIABLE => Err(format!("{VARIABLE} is a message: name a field of it")),
            _ => Err(format!("undeclared reference to '{name}' (in container 'flow')")),
        }
    }

    /// `Verdict.DROPPED`, with or without the package.
    fn enum_constant(&self, expression: &Expr) -> Option<i32> {
        let names = self.names(expression)?;
        enum_value(&names.join("."))
    }

    /// The fields behind `_flow`.
    fn flow_path(&self, expression: &Expr) -> Option<Vec<String>> {
        let mut names = self.names(expression)?;
        (names.first().map(String::as_str) == Some(VARIABLE)).then(|| names.split_off(1))
    }

    /// `a.b.c`, unless `a` is a variable of a comprehension.
    fn names(&self, expression: &Expr) -> Option<Vec<String>> {
        match expression {
            Expr::Ident(name) if self.variables.iter().all(|(own, _)| own != name) => {
                Some(vec![name.clone()])
            }
            Expr::Select(select) if !select.test => {
                let mut names = self.names(&select.operand.expr)?;
                names.push(select.field.clone());
                Some(names)
            }
            _ => None,
        }
    }

    /// A field of an element of a list.
    fn member(&mut self, operand: &Expr, field: &str) -> Result<Typed, String> {
        let (inner, kind) = self.lower(operand)?;
        let Type::Message(message) = kind else {
            return Err(format!("type '{kind}' does not support field selection"));
        };
        let kind = field_type(message, field).ok_or_else(|| undefined_field(field))?;
        Ok((Node::Member(Box::new(inner), field.to_owned()), kind))
    }

    fn list(&mut self, elements: &[IdedExpr]) -> Result<Typed, String> {
        let mut nodes = Vec::with_capacity(elements.len());
        let mut element_type = Type::Any;
        for element in elements {
            let (node, kind) = self.lower(&element.expr)?;
            if !element_type.is_like(&kind) {
                return Err(format!("a list of '{element_type}' cannot hold '{kind}'"));
            }
            element_type = kind;
            nodes.push(node);
        }
        let kind = Type::List(Box::new(element_type));
        let constants: Option<Vec<Value<'static>>> = nodes.iter().map(constant_of).collect();
        Ok(match constants {
            Some(values) => (Node::Const(Value::List(List::Values(values.into()))), kind),
            None => (Node::List(nodes), kind),
        })
    }

    fn call(&mut self, call: &CallExpr) -> Result<Typed, String> {
        let name = call.func_name.as_str();
        match (name, call.target.as_deref(), call.args.as_slice()) {
            (op::HAS, None, [field]) => self.has(&field.expr),
            ("timestamp", None, [text]) => timestamp(&text.expr),
            (op::ALL | op::EXISTS | op::EXISTS_ONE | op::FILTER | op::MAP, Some(list), [variable, body]) => {
                self.each(name, &list.expr, &variable.expr, &body.expr)
            }
            (_, target, args) => {
                let arguments = target.into_iter().chain(args);
                let typed: Result<Vec<Typed>, String> = arguments.map(|arg| self.lower(&arg.expr)).collect();
                operation(name, typed?)
            }
        }
    }

    /// `has(a.b)`: a message is there, or a value is not its default.
    fn has(&mut self, field: &Expr) -> Result<Typed, String> {
        let Expr::Select(select) = field else {
            return Err("has() takes a field".to_owned());
        };
        let node = match self.flow_path(field) {
            Some(path) => {
                let kind = path_type(&path)?;
                let path = path.join(".");
                match (fields::presence(&path), kind) {
                    (Some(presence), _) => Node::Present(presence),
                    (None, Type::Message(_)) => Node::Const(Value::Bool(false)),
                    (None, kind) => Node::IsSet(Box::new(read(&path, &kind))),
                }
            }
            None => Node::IsSet(Box::new(self.member(&select.operand.expr, &select.field)?.0)),
        };
        Ok((node, Type::Bool))
    }

    fn each(&mut self, name: &str, list: &Expr, variable: &Expr, body: &Expr) -> Result<Typed, String> {
        let Expr::Ident(variable) = variable else {
            return Err(format!("the first argument of {name}() is the name of a variable"));
        };
        let (list, kind) = self.lower(list)?;
        let Type::List(element) = kind else {
            return Err(format!("{name}() works on a list, not on '{kind}'"));
        };
        self.variables.push((variable.clone(), *element.clone()));
        let body = self.lower(body);
        self.variables.pop();
        let (body, body_type) = body?;
        let each = match name {
            op::ALL => Each::All,
            op::EXISTS => Each::Exists,
            op::EXISTS_ONE => Each::ExistsOne,
            op::FILTER => Each::Filter,
            _ => Each::Map,
        };
        let kind = match each {
            Each::Map => Type::List(Box::new(body_type)),
            _ if body_type != Type::Bool => return Err(format!("{name}() needs a bool, not '{body_type}'")),
            Each::Filter => Type::List(element),
            _ => Type::Bool,
        };
        Ok((Node::Each(each, Box::new((list, body))), kind))
    }
}

fn constant(literal: &LiteralValue) -> Result<Typed, String> {
    let (value, kind) = match literal {
        LiteralValue::Boolean(value) => (Value::Bool(*value.inner()), Type::Bool),
        LiteralValue::Int(value) => (Value::Int(*value.inner()), Type::Int),
        LiteralValue::UInt(value) => (Value::Uint(*value.inner()), Type::Uint),
        LiteralValue::String(value) => (Value::Text(value.inner().to_owned().into()), Type::Text),
        LiteralValue::Null => (Value::Null, Type::Null),
        LiteralValue::Double(_) => return Err("no field of a flow is a double".to_owned()),
        LiteralValue::Bytes(_) => return Err("no field of a flow is bytes".to_owned()),
    };
    Ok((Node::Const(value), kind))
}

fn constant_of(node: &Node) -> Option<Value<'static>> {
    match node {
        Node::Const(value) => Some(value.clone()),
        _ => None,
    }
}

fn flow_field(path: &[String]) -> Result<Typed, String> {
    match path_type(path)? {
        Type::Message(name) => {
            Err(format!("_flow.{} is a message ({name}): name a field of it", path.join(".")))
        }
        kind => Ok((read(&path.join("."), &kind), kind)),
    }
}

fn path_type(path: &[String]) -> Result<Type, String> {
    let mut kind = Type::Message(FLOW);
    for name in path {
        let Type::Message(message) = kind else {
            return Err(format!("type '{kind}' does not support field selection"));
        };
        kind = field_type(message, name).ok_or_else(|| undefined_field(name))?;
    }
    Ok(kind)
}

fn undefined_field(name: &str) -> String {
    format!("undefined field '{name}'")
}

/// Reads a field, or what it is when nothing sets it.
fn read(path: &str, kind: &Type) -> Node {
    if let Some(getter) = fields::getter(path) {
        return Node::Field(getter);
    }
    Node::Const(match kind {
        Type::Bool => Value::Bool(false),
        Type::Int => Value::Int(0),
        Type::Uint => Value::Uint(0),
        Type::Text => Value::text(""),
        Type::Time => Value::Time(0),
        Type::List(_) => Value::List(List::Texts(&[])),
        Type::Message(_) | Type::Null | Type::Any => Value::Null,
    })
}

/// `timestamp("2026-01-02T03:04:05Z")`.
fn timestamp(text: &Expr) -> Result<Typed, String> {
    let Expr::Literal(LiteralValue::String(text)) = text else {
        return Err("timestamp() takes a constant text".to_owned());
    };
    let time: specola_proto::google::Timestamp =
        text.inner().parse().map_err(|cause| format!("timestamp(\"{}\"): {cause}", text.inner()))?;
    Ok((Node::Const(Value::Time(time.unix_nanos())), Type::Time))
}

/// Operators and functions over typed operands; a function's receiver is its first operand.
fn operation(name: &str, operands: Vec<Typed>) -> Result<Typed, String> {
    let types: Vec<Type> = operands.iter().map(|(_, kind)| kind.clone()).collect();
    let no_overload = || {
        let shown: Vec<String> = types.iter().map(ToString::to_string).collect();
        format!("found no matching overload for '{name}' applied to '({})'", shown.join(", "))
    };
    let made = match <[Typed; 1]>::try_from(operands) {
        Ok([one]) => unary(name, one)?,
        Err(operands) => match <[Typed; 2]>::try_from(operands) {
            Ok([one, two]) => binary(name, one, two)?,
            Err(operands) => match <[Typed; 3]>::try_from(operands) {
                Ok([condition, yes, no]) if name == op::CONDITIONAL => conditional(condition, yes, no),
                _ => None,
            },
        },
    };
    made.ok_or_else(no_overload)
}

fn unary(name: &str, (node, kind): Typed) -> Result<Option<Typed>, String> {
    let inner = Box::new(node);
    Ok(Some(match (name, &kind) {
        (op::LOGICAL_NOT, Type::Bool) => (Node::Not(inner), Type::Bool),
        (op::NEGATE, Type::Int) => (Node::Negate(inner), Type::Int),
        ("size", Type::Text | Type::List(_)) => (Node::Size(inner), Type::Int),
        ("string", Type::Text | Type::Int | Type::Uint | Type::Bool) => (Node::ToText(inner), Type::Text),
        ("int", Type::Text | Type::Int | Type::Uint) => (Node::ToInt(inner), Type::Int),
        ("uint", Type::Text | Type::Int | Type::Uint) => (Node::ToUint(inner), Type::Uint),
        _ => return Ok(None),
    }))
}

fn binary(name: &str, one: Typed, two: Typed) -> Result<Option<Typed>, String> {
    let ((one, left), (two, right)) = (one, two);
    if name == "matches" && left == Type::Text {
        let Node::Const(Value::Text(text)) = &two else {
            return Err("the pattern of matches() must be a constant text".to_owned());
        };
        let pattern = pattern(text)?;
        return Ok(Some((Node::Matches(Box::new(one), pattern), Type::Bool)));
    }
    if let (op::LOGICAL_AND | op::LOGICAL_OR, Type::Bool, Type::Bool) = (name, &left, &right) {
        let make = if name == op::LOGICAL_AND { Node::And } else { Node::Or };
        return Ok(Some((make(Box::new(one), Box::new(two)), Type::Bool)));
    }
    let pair = Box::new((one, two));
    let is_ordered = left.is_like(&right)
        && (left.is_number() || matches!(left, Type::Text | Type::Time | Type::Bool))
        && right != Type::Null;
    let order: Option<fn(Ordering) -> bool> = match name {
        op::LESS => Some(Ordering::is_lt),
        op::LESS_EQUALS => Some(Ordering::is_le),
        op::GREATER => Some(Ordering::is_gt),
        op::GREATER_EQUALS => Some(Ordering::is_ge),
        _ => None,
    };
    if let Some(accept) = order {
        return Ok(is_ordered.then(|| (Node::Order(pair, accept), Type::Bool)));
    }
    Ok(Some(match (name, &left, &right) {
        (op::EQUALS, _, _) if left.is_like(&right) => (Node::Equal(pair), Type::Bool),
        (op::NOT_EQUALS, _, _) if left.is_like(&right) => {
            (Node::Not(Box::new(Node::Equal(pair))), Type::Bool)
        }
        (op::IN, _, Type::List(element)) if left.is_like(element) => (Node::In(pair), Type::Bool),
        (op::INDEX, Type::List(element), Type::Int) => (Node::Index(pair), element.as_ref().clone()),
        ("startsWith", Type::Text, Type::Text) => (Node::Text(TextTest::StartsWith, pair), Type::Bool),
        ("endsWith", Type::Text, Type::Text) => (Node::Text(TextTest::EndsWith, pair), Type::Bool),
        ("contains", Type::Text, Type::Text) => (Node::Text(TextTest::Contains, pair), Type::Bool),
        _ => {
            return Ok(
                arithmetic(name, &left, &right).map(|operation| (Node::Calculate(operation, pair), left))
            );
        }
    }))
}

fn arithmetic(name: &str, left: &Type, right: &Type) -> Option<Arithmetic> {
    let operation = match name {
        op::ADD => Arithmetic::Add,
        op::SUBSTRACT => Arithmetic::Subtract,
        op::MULTIPLY => Arithmetic::Multiply,
        op::DIVIDE => Arithmetic::Divide,
        op::MODULO => Arithmetic::Remainder,
        _ => return None,
    };
    let fits = left == right && (left.is_number() || *left == Type::Text && operation == Arithmetic::Add);
    fits.then_some(operation)
}

fn conditional(condition: Typed, yes: Typed, no: Typed) -> Option<Typed> {
    let fits = condition.1 == Type::Bool && yes.1 == no.1;
    fits.then(|| (Node::If(Box::new((condition.0, yes.0, no.0))), yes.1))
}
