//! Types of the API's messages, as expressions see them.

use std::{collections::HashMap, fmt, sync::LazyLock};

use prost::Message as _;
use prost_types::{DescriptorProto, EnumDescriptorProto, FileDescriptorSet, field_descriptor_proto as field};
use specola_proto::FILE_DESCRIPTOR_SET;

/// Type of an expression.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(in crate::filter) enum Type {
    Bool,
    Int,
    Uint,
    Text,
    Time,
    Null,
    /// Full name.
    Message(&'static str),
    List(Box<Self>),
    /// Element of an empty list.
    Any,
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bool => "bool",
            Self::Int => "int",
            Self::Uint => "uint",
            Self::Text => "string",
            Self::Time => TIMESTAMP,
            Self::Null => "null",
            Self::Message(name) => name,
            Self::List(element) => return write!(f, "list({element})"),
            Self::Any => "dyn",
        })
    }
}

impl Type {
    pub(super) const fn is_number(&self) -> bool {
        matches!(self, Self::Int | Self::Uint)
    }

    /// Whether values of both types can be compared for equality.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Any, _) | (_, Self::Any) => true,
            (Self::List(one), Self::List(two)) => one.is_like(two),
            // Wrappers such as `_flow.is_reply` may be null.
            (Self::Bool, Self::Null) | (Self::Null, Self::Bool) => true,
            (Self::Message(_), _) => false,
            _ => self == other || self.is_number() && other.is_number(),
        }
    }
}

/// Full name of the type of `_flow`.
pub(super) const FLOW: &str = "flow.Flow";
const TIMESTAMP: &str = "google.protobuf.Timestamp";

/// Type of a message's field; `None` when it has no such field, or one of a type that expressions do not know.
pub(super) fn field_type(message: &str, name: &str) -> Option<Type> {
    SCHEMA.messages.get(message)?.get(name).cloned()
}

/// Number of an enum's value by its full name, or by its name within package `flow`.
pub(super) fn enum_value(name: &str) -> Option<i32> {
    let values = &SCHEMA.enums;
    values.get(name).or_else(|| values.get(&format!("flow.{name}"))).copied()
}

struct Schema {
    messages: HashMap<&'static str, HashMap<String, Type>>,
    enums: HashMap<String, i32>,
}

/// Read once: the names live as long as the program.
static SCHEMA: LazyLock<Schema> = LazyLock::new(|| {
    let files = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).expect("the build script encoded it");
    let mut schema = Schema { messages: HashMap::new(), enums: HashMap::new() };
    for file in files.file {
        let package = file.package().to_owned();
        file.message_type.iter().for_each(|message| schema.add_message(&package, message));
        file.enum_type.iter().for_each(|kind| schema.add_enum(&package, kind));
    }
    schema
});

impl Schema {
    fn add_message(&mut self, scope: &str, message: &DescriptorProto) {
        let name = format!("{scope}.{}", message.name());
        message.nested_type.iter().for_each(|nested| self.add_message(&name, nested));
        message.enum_type.iter().for_each(|kind| self.add_enum(&name, kind));
        let fields = message.field.iter().filter_map(|field| {
            let element = element_type(field.r#type(), field.type_name())?;
            let is_list = field.label() == field::Label::Repeated;
            Some((field.name().to_owned(), if is_list { Type::List(Box::new(element)) } else { element }))
        });
        let fields = fields.collect();
        self.messages.insert(name.leak(), fields);
    }

    fn add_enum(&mut self, scope: &str, kind: &EnumDescriptorProto) {
        for value in &kind.value {
            self.enums.insert(format!("{scope}.{}.{}", kind.name(), value.name()), value.number());
        }
    }
}

fn element_type(kind: field::Type, name: &str) -> Option<Type> {
    Some(match kind {
        field::Type::Bool => Type::Bool,
        field::Type::String => Type::Text,
        field::Type::Uint32 | field::Type::Uint64 => Type::Uint,
        field::Type::Int32 | field::Type::Int64 | field::Type::Enum => Type::Int,
        field::Type::Message => match name.trim_start_matches('.') {
            TIMESTAMP => Type::Time,
            "google.protobuf.BoolValue" => Type::Bool,
            name => Type::Message(name.to_owned().leak()),
        },
        _ => return None,
    })
}
