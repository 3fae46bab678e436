//! A document's fields, read by type; what is of another type is named.

use bson::{Bson, Document, doc};

use crate::catalog::CatalogError;

/// A document's fields by type. Numbers may be of any numeric type: Python writes what it likes.
pub(super) struct Fields<'a>(pub(super) &'a Document);

impl Fields<'_> {
    pub(super) fn odd(&self, field: &'static str) -> CatalogError {
        let value = self.0.get(field).map_or("nothing".to_owned(), Bson::to_string);
        let value = value.chars().take(64).collect();
        CatalogError::Row { operation: "reading a document", column: field, value }
    }

    pub(super) fn get(&self, field: &'static str) -> Option<&Bson> {
        self.0.get(field).filter(|value| !matches!(value, Bson::Null))
    }

    pub(super) fn text(&self, field: &'static str) -> Result<String, CatalogError> {
        self.get(field).and_then(Bson::as_str).map(str::to_owned).ok_or_else(|| self.odd(field))
    }

    pub(super) fn number(&self, field: &'static str) -> Result<i64, CatalogError> {
        match self.get(field) {
            Some(Bson::Int32(number)) => Ok(i64::from(*number)),
            Some(Bson::Int64(number)) => Ok(*number),
            Some(Bson::Double(number)) if number.fract() == 0.0 && number.abs() < 9e15 => Ok(*number as i64),
            _ => Err(self.odd(field)),
        }
    }

    /// A time, seconds since the epoch; 0 where there is none.
    pub(super) fn time(&self, field: &'static str) -> Result<f64, CatalogError> {
        match self.get(field) {
            None => Ok(0.0),
            Some(Bson::Double(time)) => Ok(*time),
            Some(_) => self.number(field).map(|time| time as f64),
        }
    }

    pub(super) fn truth(&self, field: &'static str) -> Result<bool, CatalogError> {
        self.get(field).and_then(Bson::as_bool).ok_or_else(|| self.odd(field))
    }

    pub(super) fn id(&self, field: &'static str) -> Result<u32, CatalogError> {
        u32::try_from(self.number(field)?).map_err(|_| self.odd(field))
    }

    /// A list of texts; one text is a list of it, nothing is none.
    pub(super) fn texts(&self, field: &'static str) -> Result<Vec<String>, CatalogError> {
        let texts = match self.get(field) {
            None => Some(Vec::new()),
            Some(Bson::String(text)) => Some(vec![text.clone()]),
            Some(Bson::Array(texts)) => texts.iter().map(|t| t.as_str().map(str::to_owned)).collect(),
            Some(_) => None,
        };
        texts.ok_or_else(|| self.odd(field))
    }

    /// A list of uids or gids; nothing is none.
    pub(super) fn ids(&self, field: &'static str) -> Result<Vec<u32>, CatalogError> {
        let Some(value) = self.get(field) else { return Ok(Vec::new()) };
        let ids = value.as_array().ok_or_else(|| self.odd(field))?;
        let number = |value: &Bson| Fields(&doc! { "id": value.clone() }).id("id");
        ids.iter().map(|id| number(id).map_err(|_| self.odd(field))).collect()
    }

    pub(super) fn documents(&self, field: &'static str) -> Result<Vec<&Document>, CatalogError> {
        let Some(value) = self.get(field) else { return Ok(Vec::new()) };
        let list = value.as_array().and_then(|list| list.iter().map(Bson::as_document).collect());
        list.ok_or_else(|| self.odd(field))
    }
}
