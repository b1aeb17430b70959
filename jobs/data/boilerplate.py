"""The main text of HTML pages, and lines that are no content taken out of any text.

    PageText().sift(pages, tally)              # filters: {html: extract}
    WithoutBoilerplate().sift(texts, tally)    # filters: {boilerplate: true}

Pages are read by resiliparse (Apache): an HTML5 parser with rules for what is main text, in any language. Of kept libraries
trafilatura leaves a little less of what stands around an article, and is many times slower under 60 MB of dependencies;
jusText needs a list of stop words for each language and finds nothing in Chinese.
"""

import re
from collections import Counter
from collections.abc import Sequence

MOST_CHARACTERS_OF_NOTICE = 200
"""Longer lines are no notices, whatever they speak of."""
LEAST_CHARACTERS_REPEATED = 20
"""Shorter lines may stand there again: `"No."`, a closing bracket."""
MOST_NESTED = 2_000
"""Blocks in each other; browsers stop at 512, and the time that reading takes grows with the square."""
_BLOCK = re.compile(r"<(/?)div\b", re.IGNORECASE)
_TAG = re.compile(r"<[a-zA-Z/!]")
_POLICY = (
    r"\b(?:uses?|using|use of|accept) (?:\w+ )?cookies\b|\bcookie (?:policy|settings|preferences|notice|consent)\b"
    r"|\bprivacy policy\b|\bterms (?:of (?:use|service)|and conditions)\b"
    r"|使用\s*cookie|cookie\s*(?:政策|设置|設定|声明)|隐私(?:政策|声明|条款)|隱私權?政策|用户协议|(?:服务|使用)条款"
)
_SCRIPT = (
    r"\b(?:enable|turn on|requires?|needs?|without|disabled?)\b.{0,40}\bjavascript\b"
    r"|\bjavascript\b.{0,40}\b(?:enabled?|disabled|required|turned)\b"
    r"|(?:启用|开启|打开|禁用|不支持).{0,8}javascript|javascript.{0,12}(?:启用|开启|打开|禁用|不支持)"
)
_RIGHTS = (
    r"^\W*(?:copyright\b|©|\(c\) ?(?:19|20)\d\d)|\ball rights reserved\b"
    r"|版权所有|版權所有|保留(?:所有|一切)权利|未经.{0,8}(?:授权|许可|允许|同意).{0,12}(?:转载|复制)|ICP[备備证證]|公网安备"
)
_AROUND = (
    r"^\W*(?:skip to (?:main )?content|sign (?:in|up)|log ?(?:in|out)|register|subscribe(?: now)?|read more|back to top"
    r"|advertisement|(?:related|more|popular) (?:articles|stories|posts)|share (?:on|this)\b.{0,40}|follow us\b.{0,40})\W*$"
    r"|^\W*(?:分享[到至]|上一篇|下一篇|(?:热门|相关)(?:推荐|阅读|文章)|延伸阅读|责任编辑|返回顶部|点击(?:查看|阅读)(?:更多|全文|原文)"
    r"|扫一?描?(?:下方)?二维码|(?:您|你)?(?:现在|当前|所在)的?位置).{0,60}$|^\W*(?:首页|登录|注册|登錄|註冊)\W*$"
)
_NOTICE = re.compile("|".join((_POLICY, _SCRIPT, _RIGHTS, _AROUND)), re.IGNORECASE)
_PLACEHOLDER = re.compile(r"lorem ipsum", re.IGNORECASE)


class PageText:
    """Puts a page's main text in the place of its HTML."""

    def sift(self, texts: Sequence[str], tally: "Counter[str]") -> tuple[list[str], dict[int, str]]:
        """Counts rows_filtered_html. A text without tags is no page and stays as it is."""
        found = [main_text(text) if _TAG.search(text) else text for text in texts]
        gone = {place: "html: the page has no main text" for place, text in enumerate(found) if not text.strip()}
        tally["rows_filtered_html"] += len(gone)
        return found, gone


def main_text(page: str) -> str:
    """The main text of an HTML page, its paragraphs parted by blank lines; empty where it has none, or is nested too deep."""
    from resiliparse.extract.html2text import extract_plain_text

    if _nested(page) > MOST_NESTED:
        return ""
    # Lone halves of pairs, which JSON can write, are no text that a parser takes.
    return extract_plain_text(
        page.encode("utf-8", "replace").decode(),
        preserve_formatting=True,
        main_content=True,
        list_bullets=False,
        alt_texts=False,
        comments=False,
        post_meta=False,
    )


def _nested(page: str) -> int:
    """How deep the blocks of a page stand in each other at most."""
    depth = deepest = 0
    for tag in _BLOCK.finditer(page):
        depth = max(0, depth - 1) if tag[1] else depth + 1
        deepest = max(deepest, depth)
    return deepest


class WithoutBoilerplate:
    """Takes lines out that are no content.

    After the rules of C4 (Raffel et al. 2020, "Exploring the Limits of Transfer Learning", 2.2) for what speaks of JavaScript,
    cookies, lorem ipsum or holds a curly bracket; but for its rules of sentences, which Chinese has other signs for.
    """

    def sift(self, texts: Sequence[str], tally: "Counter[str]") -> tuple[list[str], dict[int, str]]:
        """Counts texts_without_boilerplate, from which lines went, and rows_filtered_boilerplate, which went whole."""
        kept, gone = list(texts), dict[int, str]()
        for place, text in enumerate(texts):
            if "{" in text:
                gone[place] = "boilerplate: a curly bracket"
            elif _PLACEHOLDER.search(text):
                gone[place] = "boilerplate: lorem ipsum"
            else:
                kept[place] = content_lines(text)
                if not kept[place]:
                    gone[place] = "boilerplate: no other line"
        changed = sum(one != other for one, other in zip(texts, kept, strict=True)) - sum(not text for text in kept)
        tally.update({"texts_without_boilerplate": changed, "rows_filtered_boilerplate": len(gone)})
        return kept, gone


def content_lines(text: str) -> str:
    """The lines of a text that are no notices and did not stand there before."""
    kept: list[str] = []
    seen: set[str] = set()
    for line in text.split("\n"):
        bare = line.strip()
        notice = len(bare) <= MOST_CHARACTERS_OF_NOTICE and not bare.endswith(("?", "？")) and _NOTICE.search(bare)
        if notice or bare in seen:
            continue
        if len(bare) >= LEAST_CHARACTERS_REPEATED:
            seen.add(bare)
        # What a line parted, its leaving joins no more than one blank line does.
        if bare or (kept and kept[-1].strip()):
            kept.append(line)
    return "\n".join(kept).strip()
