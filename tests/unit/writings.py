"""What a careful program writes: texts of one line, and headers that go on with a message."""

from hypothesis import strategies as st

Header = st.dictionaries(
    st.text("abzAZ_-0", min_size=1, max_size=8).filter(lambda n: not n.startswith("_v")),
    st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20),
    max_size=4,
)
Text = st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=30)
