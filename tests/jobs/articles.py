"""Plain articles in English and in Chinese, and a page around each: what filters must keep, and what they must leave."""

ENGLISH = """The old bridge reopens after nine years

The iron bridge over the harbour opened again on Sunday, nine years after a storm tore away its middle span. Some four \
hundred people walked across before the first bus did.

Engineers replaced every rivet by hand, since the machines that had driven the first ones no longer exist. The work cost \
twice what had been planned, said the mayor, who had promised it would be ready in two summers.

"I was born on that side and went to school on this one," said Tom Ellery, who is 81. "For nine years I have gone round by \
the mill." He means to cross it every day that is left to him."""

CHINESE = """老桥修了九年,周日终于重新开放

港口上的老铁桥星期天重新开放了。九年前的一场暴风雨冲垮了桥的中段,从那以后,住在两岸的人只能绕道磨坊。

工程师们用手一颗一颗地换掉了所有铆钉,因为当年打铆钉的机器早已不在了。市长说,工程花的钱是原来预算的两倍,原本答应两个夏天就能修好。

"我在那边出生,在这边上学。"八十一岁的托马斯说,"九年来我一直绕着磨坊走。"他说,今后每天都要从桥上走一趟。"""


def page(article: str, chinese: bool) -> str:
    """The article in a page with a menu, a cookie banner, links to others and a footer."""
    menu = ("首页", "新闻", "体育", "登录") if chinese else ("Home", "News", "Sport", "Sign in")
    banner = "本网站使用cookie,点击接受。" if chinese else "We use cookies to improve your visit. Accept all?"
    others = ("渡轮票价即将上调", "磨坊要卖掉了") if chinese else ("Ferry fares to rise", "Mill to be sold")
    rights = "版权所有 © 海港新闻网" if chinese else "© 2024 Harbour Times. All rights reserved."
    title, *paragraphs = article.split("\n\n")
    links = "".join(f'<li><a href="/{number}">{name}</a></li>' for number, name in enumerate(menu))
    asides = "".join(f'<a href="/more/{number}">{name}</a>' for number, name in enumerate(others))
    body = "".join(f"<p>{paragraph}</p>" for paragraph in paragraphs)
    return (
        f"<!doctype html><html><head><title>{title} | Harbour</title><script>var seen = {{}};</script></head><body>"
        f'<nav><ul>{links}</ul></nav><div class="cookie-banner">{banner}</div>'
        f"<main><article><h1>{title}</h1>{body}</article></main>"
        f'<aside class="related">{asides}</aside><footer>{rights}</footer></body></html>'
    )
