//! From a tree to any type, with the line and the path of what does not fit.
//!
//! What is null counts as left out, as Kubernetes has it.

use std::fmt;

use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, Error as _, IntoDeserializer, MapAccess, SeqAccess,
    VariantAccess, Visitor,
};
use serde::forward_to_deserialize_any;

use super::{Name, Node, Value};

/// A node that does not fit the type.
#[derive(Debug)]
pub(crate) struct DecodeError {
    /// Line in the text that was parsed, from 1; 0 when it is not known.
    pub(crate) line: u32,
    /// Fields on the way to it.
    pub(crate) path: String,
    pub(crate) message: String,
}

impl DecodeError {
    fn at(mut self, line: u32, step: &str) -> Self {
        if self.line == 0 {
            self.line = line;
        }
        if step.is_empty() {
            return self;
        }
        let separator = if self.path.is_empty() || self.path.starts_with('[') { "" } else { "." };
        self.path = format!("{step}{separator}{}", self.path);
        self
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for DecodeError {}

impl serde::de::Error for DecodeError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self { line: 0, path: String::new(), message: message.to_string() }
    }
}

/// Gives the value of a node that is left out.
macro_rules! or_nothing {
    ($($method:ident($visit:ident, $nothing:expr);)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
            match self.value {
                Value::Null => visitor.$visit($nothing),
                _ => self.deserialize_any(visitor),
            }
        }
    )*};
}

impl<'de> Deserializer<'de> for &'de Node {
    type Error = DecodeError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        let decoded = match &self.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Integer(value) => visitor.visit_i64(*value),
            Value::Number(value) => visitor.visit_f64(*value),
            Value::Text(text) => visitor.visit_borrowed_str(text),
            Value::List(nodes) => visitor.visit_seq(Elements { nodes, next: 0 }),
            Value::Map(fields) => visitor.visit_map(Entries { fields, next: 0 }),
        };
        decoded.map_err(|error| error.at(self.line, ""))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match self.value {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        let Value::Text(text) = &self.value else {
            return Err(
                DecodeError::custom(format!("a string is wanted, this is {}", self.kind())).at(self.line, "")
            );
        };
        visitor.visit_enum(Variant(text)).map_err(|error| error.at(self.line, ""))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        self.deserialize_map(visitor)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match &self.value {
            Value::Null => visitor.visit_borrowed_str(""),
            Value::Bool(_) | Value::Integer(_) | Value::Number(_) => {
                let message = format!("must be a string, this is {}; put it in quotes", self.kind());
                Err(DecodeError::custom(message).at(self.line, ""))
            }
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.deserialize_str(visitor)
    }

    or_nothing! {
        deserialize_bool(visit_bool, false);
        deserialize_i8(visit_i64, 0);
        deserialize_i16(visit_i64, 0);
        deserialize_i32(visit_i64, 0);
        deserialize_i64(visit_i64, 0);
        deserialize_u8(visit_u64, 0);
        deserialize_u16(visit_u64, 0);
        deserialize_u32(visit_u64, 0);
        deserialize_u64(visit_u64, 0);
        deserialize_seq(visit_seq, Elements { nodes: &[], next: 0 });
        deserialize_map(visit_map, Entries { fields: &[], next: 0 });
    }

    forward_to_deserialize_any! {
        i128 u128 f32 f64 char bytes byte_buf unit unit_struct tuple tuple_struct identifier ignored_any
    }
}

struct Elements<'de> {
    nodes: &'de [Node],
    next: usize,
}

impl<'de> SeqAccess<'de> for Elements<'de> {
    type Error = DecodeError;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, DecodeError> {
        let Some(node) = self.nodes.get(self.next) else { return Ok(None) };
        let index = self.next;
        self.next += 1;
        seed.deserialize(node).map(Some).map_err(|error| error.at(node.line, &format!("[{index}]")))
    }
}

struct Entries<'de> {
    fields: &'de [(Name, Node)],
    next: usize,
}

impl<'de> MapAccess<'de> for Entries<'de> {
    type Error = DecodeError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, DecodeError> {
        let Some((name, _)) = self.fields.get(self.next) else { return Ok(None) };
        let key: serde::de::value::BorrowedStrDeserializer<'de, DecodeError> =
            serde::de::value::BorrowedStrDeserializer::new(&name.text);
        seed.deserialize(key).map(Some).map_err(|error| error.at(name.line, &name.text))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, DecodeError> {
        let Some((name, node)) = self.fields.get(self.next) else {
            return Err(DecodeError::custom("a value without a key"));
        };
        self.next += 1;
        seed.deserialize(node).map_err(|error| error.at(node.line, &name.text))
    }
}

struct Variant<'de>(&'de str);

impl<'de> EnumAccess<'de> for Variant<'de> {
    type Error = DecodeError;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), DecodeError> {
        seed.deserialize(IntoDeserializer::<DecodeError>::into_deserializer(self.0))
            .map(|value| (value, self))
    }
}

impl<'de> VariantAccess<'de> for Variant<'de> {
    type Error = DecodeError;

    fn unit_variant(self) -> Result<(), DecodeError> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, _seed: T) -> Result<T::Value, DecodeError> {
        Err(DecodeError::custom(format!("{} takes no value", self.0)))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _len: usize, _visitor: V) -> Result<V::Value, DecodeError> {
        Err(DecodeError::custom(format!("{} takes no values", self.0)))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _fields: &'static [&'static str],
        _visitor: V,
    ) -> Result<V::Value, DecodeError> {
        Err(DecodeError::custom(format!("{} takes no fields", self.0)))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Default, Deserialize, PartialEq)]
    #[serde(default)]
    struct Object {
        name: String,
        labels: BTreeMap<String, String>,
        ports: Vec<u16>,
        net: Option<ipnet::IpNet>,
        mode: Mode,
    }

    #[derive(Debug, Default, Deserialize, PartialEq)]
    #[serde(rename_all = "lowercase")]
    enum Mode {
        #[default]
        One,
        Two,
    }

    fn read(text: &str) -> Result<Object, DecodeError> {
        Object::deserialize(&Node::parse(text).unwrap())
    }

    #[test]
    fn values_and_what_is_left_out() {
        let text = "name: a\nlabels: {app: web, flag: }\nports: [80, 81]\nnet: 10.0.0.0/8\nmode: two\nmore: {x: 1}\n";
        let expect = Object {
            name: "a".to_owned(),
            labels: [("app", "web"), ("flag", "")].map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
            ports: vec![80, 81],
            net: "10.0.0.0/8".parse().ok(),
            mode: Mode::Two,
        };
        assert_eq!(read(text).unwrap(), expect);
        assert_eq!(read("name: \nlabels: ~\nports: null\nnet:\n").unwrap(), Object::default());
    }

    #[test]
    fn what_does_not_fit_is_told_by_line_and_path() {
        for (text, line, path, cause) in [
            (
                "name: a\nlabels:\n  app: web\n  tier: 1\n",
                4,
                "labels.tier",
                "must be a string, this is an integer; put it in quotes",
            ),
            ("ports:\n- 80\n- 70000\n", 3, "ports[1]", "70000"),
            ("net: nonsense\n", 1, "net", "invalid IP address syntax"),
            ("mode: three\n", 1, "mode", "unknown variant `three`"),
            ("mode: [two]\n", 1, "mode", "this is a list"),
            ("labels: web\n", 1, "labels", "expected a map"),
        ] {
            let error = read(text).unwrap_err();
            assert_eq!((error.line, error.path.as_str()), (line, path), "{text}: {error:?}");
            assert!(error.message.contains(cause), "{text}: {error:?}");
        }
    }
}
