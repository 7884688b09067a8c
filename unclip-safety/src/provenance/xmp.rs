//! The XMP packet itself (ISO 16684-1), of which one property matters here.

use super::ProvenanceError;

/// The IPTC term for media that a trained model made.
pub const TRAINED: &str = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia";
/// The IPTC term for media that a trained model made a part of, such as an edited photograph.
pub const COMPOSITE: &str =
    "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia";

const IPTC: &str = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/";
const XMP: &str = "http://ns.adobe.com/xap/1.0/";
const RDF: &str = "http://www.w3.org/1999/02/22-rdf-syntax-ns#";

/// The longest packet that is read.
const MAX_PACKET: usize = 1 << 20;
/// The most XML nodes that a packet may have.
const MAX_NODES: u32 = 50_000;

/// What a packet says of a file's origin.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origin {
    /// The IPTC term of `Iptc4xmpExt:DigitalSourceType`, such as [`TRAINED`].
    pub source_type: Option<String>,
    /// The program, `xmp:CreatorTool`.
    pub tool: Option<String>,
}

impl Origin {
    /// Made by a trained model, in the program `tool`.
    pub fn trained(tool: impl Into<String>) -> Self {
        Self { source_type: Some(TRAINED.into()), tool: Some(tool.into()) }
    }

    /// A picture that a trained model made a part of, in the program `tool`.
    pub fn composite(tool: impl Into<String>) -> Self {
        Self { source_type: Some(COMPOSITE.into()), tool: Some(tool.into()) }
    }

    /// Whether a trained model made the picture or a part of it.
    pub fn is_generated(&self) -> bool {
        let term = self.source_type.as_deref().and_then(|term| term.rsplit('/').next());
        matches!(term, Some("trainedAlgorithmicMedia" | "compositeWithTrainedAlgorithmicMedia"))
    }

    /// The packet that says so.
    pub(super) fn packet(&self) -> String {
        let mut properties = String::new();
        for (name, value) in
            [("Iptc4xmpExt:DigitalSourceType", &self.source_type), ("xmp:CreatorTool", &self.tool)]
        {
            if let Some(value) = value {
                properties.push_str(&format!(" {name}=\"{}\"", escaped(value)));
            }
        }
        format!(
            "<?xpacket begin=\"\u{FEFF}\" id=\"W5M0MpCehiHzreSzNTczkc9d\"?>\
             <x:xmpmeta xmlns:x=\"adobe:ns:meta/\"><rdf:RDF xmlns:rdf=\"{RDF}\">\
             <rdf:Description rdf:about=\"\" xmlns:Iptc4xmpExt=\"{IPTC}\" xmlns:xmp=\"{XMP}\"{properties}/>\
             </rdf:RDF></x:xmpmeta><?xpacket end=\"r\"?>"
        )
    }

    /// Reads a packet: the two properties of every description, written as attributes or as elements.
    ///
    /// # Errors
    ///
    /// [`ProvenanceError::Xmp`] when it is longer than 1 MiB, not UTF-8, not well-formed, declares entities, or gives a
    /// property twice with different values.
    pub fn parse(packet: &[u8]) -> Result<Self, ProvenanceError> {
        let failed = |reason: String| ProvenanceError::Xmp { reason };
        if packet.len() > MAX_PACKET {
            return Err(failed(format!("{} bytes, expected at most {MAX_PACKET}", packet.len())));
        }
        let text = std::str::from_utf8(packet).map_err(|error| failed(error.to_string()))?;
        // Padding at the end of a packet may be zero bytes, which XML does not know.
        let text = text.trim_matches(['\0', '\u{FEFF}', ' ', '\n', '\r', '\t']);
        let options = roxmltree::ParsingOptions { nodes_limit: MAX_NODES, ..Default::default() };
        let document = roxmltree::Document::parse_with_options(text, options)
            .map_err(|error| failed(error.to_string()))?;
        let mut origin = Self::default();
        let mut note = |namespace: Option<&str>, name: &str, value: &str| {
            let place = match (namespace, name) {
                (Some(IPTC), "DigitalSourceType") => &mut origin.source_type,
                (Some(XMP), "CreatorTool") => &mut origin.tool,
                _ => return Ok(()),
            };
            match place {
                Some(known) if known != value => Err(failed(format!("{name} has two values"))),
                _ => {
                    *place = Some(value.to_owned());
                    Ok(())
                }
            }
        };
        let descriptions = document.descendants().filter(|n| n.has_tag_name((RDF, "Description")));
        for description in descriptions {
            for attribute in description.attributes() {
                note(attribute.namespace(), attribute.name(), attribute.value())?;
            }
            for child in description.children().filter(roxmltree::Node::is_element) {
                let name = child.tag_name();
                let value = child.text().or_else(|| child.attribute((RDF, "resource")));
                note(name.namespace(), name.name(), value.unwrap_or_default().trim())?;
            }
        }
        Ok(origin)
    }
}

/// `text` as the value of an XML attribute. Characters that XML cannot hold at all are left out.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            // Left bare, these would come back as spaces.
            '\t' | '\n' | '\r' => escaped.push_str(&format!("&#{};", u32::from(character))),
            '\0'..='\u{1F}' | '\u{FFFE}' | '\u{FFFF}' => {}
            _ => escaped.push(character),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_text_comes_back() {
        for tool in ["plain", "<&>\"'", "line\nbreak\ttab\r", "日本語 \u{1F438}", ""] {
            let origin = Origin::trained(tool);
            assert_eq!(Origin::parse(origin.packet().as_bytes()), Ok(origin), "{tool:?}");
        }
        let odd = Origin::trained("a\u{1}b\u{FFFE}c").packet();
        let read = Origin::parse(odd.as_bytes()).expect("well-formed");
        assert_eq!(read.tool.as_deref(), Some("abc"));
    }

    #[test]
    fn properties_written_as_elements_are_read() {
        let packet = format!(
            "<x:xmpmeta xmlns:x='adobe:ns:meta/'><r:RDF xmlns:r='{RDF}'><r:Description r:about='' xmlns:i='{IPTC}'>\
             <i:DigitalSourceType>{COMPOSITE}</i:DigitalSourceType></r:Description></r:RDF></x:xmpmeta>"
        );
        let origin = Origin::parse(packet.as_bytes()).expect("well-formed");
        assert!(origin.is_generated());
        assert_eq!(origin.source_type.as_deref(), Some(COMPOSITE));
        let resource = packet.replace(
            &format!(">{COMPOSITE}</i:DigitalSourceType>"),
            &format!(" r:resource='{TRAINED}'/>"),
        );
        assert_eq!(
            Origin::parse(resource.as_bytes()).expect("well-formed").source_type.as_deref(),
            Some(TRAINED)
        );
    }

    #[test]
    fn photographs_are_not_called_generated() {
        let camera = "http://cv.iptc.org/newscodes/digitalsourcetype/digitalCapture";
        for source_type in [None, Some(camera.to_owned()), Some(String::new())] {
            assert!(!Origin { source_type, tool: None }.is_generated());
        }
    }

    #[test]
    fn hostile_packets_are_errors() {
        let laughs = "<!DOCTYPE x [<!ENTITY a \"aaaaaaaaaa\"><!ENTITY b \"&a;&a;&a;\">]><x>&b;</x>";
        let deep = "<a>".repeat(200_000);
        let wide = format!("<a>{}</a>", "<b/>".repeat(60_000));
        let two = format!(
            "<r:RDF xmlns:r='{RDF}' xmlns:i='{IPTC}'><r:Description i:DigitalSourceType='a'/>\
             <r:Description i:DigitalSourceType='b'/></r:RDF>"
        );
        let long = " ".repeat(MAX_PACKET + 1);
        for packet in [laughs, &deep, &wide, &two, &long, "", "<a", "<a b='1' b='2'/>"] {
            let parsed = Origin::parse(packet.as_bytes());
            assert!(matches!(parsed, Err(ProvenanceError::Xmp { .. })), "{:.40}", packet);
        }
        assert!(Origin::parse(&[0xFF, 0xFE, b'<']).is_err(), "not UTF-8");
    }
}
