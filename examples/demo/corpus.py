"""A seeded generator of support requests, labelled with intents, in two domains.

The first domain is a web shop for household goods. The second is a product launched later, an electric bicycle
on subscription: no row of the shop has its words or intents. Rows vary in opening, wording, detail and
closing, so that near-deduplication keeps them.
"""

import random
import re
from collections.abc import Iterator
from typing import NamedTuple


class Row(NamedTuple):
    """One request and its intent."""

    text: str
    category: str


# `[a|b]` is a choice. Choices may be nested.
SHOP: dict[str, tuple[str, ...]] = {
    "order_status": (
        "[where is|what happened to|any news about] my [order|purchase]",
        "[can you check|please tell me] [how far|where] my [order|purchase] [has got|is by now]",
        "the [order page|tracking link] [has not changed|says nothing new] [for days|since the weekend]",
    ),
    "cancel_order": (
        "[I want to|please help me|how do I] [cancel|call off|stop] my [order|purchase]",
        "[I changed my mind|I bought it by mistake], [do not send|please drop] the [order|purchase]",
        "is it [too late|still possible] to [cancel|withdraw] what I [ordered|bought] [today|last night]",
    ),
    "change_address": (
        "[the delivery address|the street in my order] is [wrong|my old one], [can you change|please correct] it",
        "I [moved house|am at my parents'], [send|deliver] it to [another|a different] address",
        "[how can I|I need to] [update|edit|change] where the [parcel|box] [goes|is delivered]",
    ),
    "refund_status": (
        "[when do I get|where is] my [money back|refund]",
        "I [sent it back|returned it] [two weeks ago|last month] and [the refund|my money] [has not come|is missing]",
        "[how long|how many days] [does a refund take|until the money is on my account]",
    ),
    "return_item": (
        "[I want to|how do I|can I] [return|send back] [this|the thing I bought]",
        "it [does not fit|is not what I expected], [where do I send it|how does a return work]",
        "[please send me|I need] a [return label|label for sending it back]",
    ),
    "damaged_item": (
        "it [arrived|came] [broken|cracked|with a dent]",
        "the [glass|lid|handle] was [shattered|snapped off] when I [opened the box|unpacked it]",
        "[there is a scratch|I found a crack] [on the front|all over it], [straight out of the box|brand new]",
    ),
    "missing_part": (
        "[the screws|one of the legs|the power cord] [was not|is not] in the box",
        "[a part|something] is [missing|not there], [I cannot put it together|I counted twice]",
        "[the manual lists|there should be] [six shelves|four bolts] but I [got|have] [one less|only some of them]",
    ),
    "wrong_item": (
        "you sent [the wrong thing|something else|another model]",
        "I [ordered|paid for] the [red|large|steel] one and [received|got] a [blue|small|plastic] one",
        "[this is not|that is not at all] what I [ordered|asked for], [the picture|the name on it] was different",
    ),
    "payment_declined": (
        "my [card|payment] [is declined|does not go through|keeps failing] [at checkout|when I pay]",
        "[I get an error|it says no] [when paying|after I enter my card]",
        "[why can I not|I am unable to] pay [by card|with my account]",
    ),
    "double_charge": (
        "I was [charged|billed] [twice|two times] for [one|the same] [order|thing]",
        "[my bank shows|there are] two [payments|debits] [to you|from your shop]",
        "[the amount|the sum] [left my account|was taken] [once more|a second time]",
    ),
    "invoice_request": (
        "[I need|please send|where do I find] [an invoice|a bill] [for my taxes|with VAT|for my company]",
        "the [invoice|bill] has [the wrong name|no company name] on it",
        "[can I download|do you mail] [invoices|receipts] [for last year|as a file]",
    ),
    "discount_code": (
        "my [voucher|discount code|coupon] [does not work|is refused|has no effect]",
        "[where do I enter|how do I use] a [voucher|coupon|promo code]",
        "the [ten percent|welcome] [discount|offer] [was not taken off|is not in the total]",
    ),
    "delivery_time": (
        "[how long does|how many days does] [shipping|delivery] take [to the islands|abroad|in general]",
        "[will it|can it] [arrive|be here] [before Friday|by my birthday|until Christmas]",
        "[do you deliver|is there shipping] on [Saturdays|weekends|holidays]",
    ),
    "delivery_missed": (
        "the [driver|courier] [came|rang] when I was [out|at work], [what now|where is it kept]",
        "[I found|there was] a [card|note] saying [nobody was home|they missed me]",
        "[can you bring it again|please try another time], I [missed|was not there for] the [delivery|courier]",
    ),
    "password_reset": (
        "I [forgot|lost] my [password|login]",
        "the [reset mail|password link] [never arrives|has expired]",
        "[I cannot|it will not let me] [log in|sign in], [the password is wrong|it wants another password]",
    ),
    "close_account": (
        "[please delete|I want to close|how do I remove] my [account|profile]",
        "[erase|wipe] [all my data|everything you know about me]",
        "I [no longer|do not] want [an account|to be a customer], [delete me|take me off]",
    ),
    "stock_question": (
        "when is [it|the kettle|that lamp] [back|available again|in stock]",
        "[is this|are these] [sold out for good|coming back], [the page|your app] says unavailable",
        "[tell me|can I get a mail] when [there are new ones|you have it again]",
    ),
    "warranty": (
        "[it stopped working|it broke down] [after a year|after some months], is that [covered|under warranty]",
        "how [long|many years] is the [warranty|guarantee]",
        "[do I need|must I keep] the [receipt|box] for [the guarantee|a warranty claim]",
    ),
    "assembly_help": (
        "[how do I|I do not understand how to] [put it together|assemble it]",
        "the [instructions|drawings] are [unclear|in another language|missing a page]",
        "[which way round|where] does [the back panel|this board|the hinge] go",
    ),
    "newsletter": (
        "[stop|no more] [mails|advertising|newsletters], please",
        "[how do I|I want to] [unsubscribe|leave the mailing list]",
        "I [keep getting|get far too many] [offers|newsletters] [by mail|every day]",
    ),
}

BICYCLE: dict[str, tuple[str, ...]] = {
    "battery_swap": (
        "the [battery|accumulator] of my [e-bike|bicycle] [is empty|holds no charge], where can I [swap|exchange] it",
        "[which station|what kiosk] [swaps|replaces] [batteries|cells] for the [e-bike|pedelec]",
        "[I need|can I have] a [fresh|full] [battery|power pack] for my [ride|pedelec]",
    ),
    "app_pairing": (
        "the [app|phone] does not [find|pair with] my [e-bike|pedelec] over bluetooth",
        "[pairing|connecting] the [handlebar display|bike computer] [fails|hangs] [at step two|every time]",
        "[how do I|I cannot] [pair|connect] [a new phone|my watch] with the [pedelec|e-bike]",
    ),
    "flat_tyre": (
        "I have a [flat tyre|puncture], [can somebody come|where is a mechanic]",
        "the [rear|front] [wheel|tyre] [lost all air|has a nail in it]",
        "[who repairs|do you mend] [punctures|spokes] [on the road|under the subscription]",
    ),
    "theft_report": (
        "my [e-bike|pedelec] was [stolen|taken] [from the rack|in front of the station]",
        "[somebody cut|thieves broke] the [lock|chain], the [bike|pedelec] is gone",
        "[track|locate] the [bike|pedelec] by gps, it has been [stolen|nicked]",
    ),
    "pause_subscription": (
        "[can I|I want to] [pause|freeze] the [bike subscription|monthly ride plan] [in winter|while I travel]",
        "[put|set] my [ride plan|subscription] on hold [for two months|until spring]",
        "I [will not ride|am injured] [for a while|this season], [pause|suspend] the [plan|subscription]",
    ),
    "motor_noise": (
        "the [motor|drive unit] [rattles|whines|clicks] [uphill|when I pedal]",
        "[a grinding|a strange humming] [noise|sound] from the [hub|crank|drive unit]",
        "[is it normal|should I worry] that the [motor|gearbox] [buzzes|knocks] [at low speed|in the rain]",
    ),
    "range_question": (
        "how [far|many kilometres] [can I ride|does the e-bike go] on one charge",
        "[the range|reach] is [half of what you promise|much shorter] in [cold|hilly] [weather|country]",
        "[does turbo assist|do wide tyres] [shorten|eat] the range [much|a lot]",
    ),
    "brake_adjust": (
        "the [brakes|discs] [squeal|rub|grip late]",
        "[how do I|who can] [adjust|bleed] the [hydraulic|rear] brake of the [pedelec|e-bike]",
        "the [brake lever|calliper] [goes to the handlebar|feels soft] [since the last service|after a long descent]",
    ),
}

OPENINGS = (
    "", "", "", "Hello,", "Hi there,", "Good morning,", "Dear team,", "Excuse me,", "Sorry to bother you,", "Hey,",
    "Once more:", "Urgent:", "Quick question:", "A question please:", "As I wrote yesterday,", "My wife asks:",
    "I am a bit annoyed:", "Second try:", "Your chat told me to write here.", "I hope you can help.",
)  # fmt: skip
DETAILS = (
    "", "", "It is number {n}.", "My number is {n}.", "Reference {n}.", "It was on {d}.", "That was {d}.",
    "I live in {c}.", "Greetings from {c}.", "It concerns the {g}.", "This is about the {g}.", "We talk about a {g}.",
    "I paid {e} euros.", "It cost {e} euros.", "I called on {d} already.", "The {g} was a present.",
)  # fmt: skip
CLOSINGS = (
    "", "", "", "Thanks.", "Thank you very much.", "Please answer soon.", "Best regards", "Cheers", "Any idea?",
    "What should I do?", "Can you help?", "I am waiting.", "Please call me.", "Many thanks in advance.", "Regards",
)  # fmt: skip
GOODS = ("kettle", "floor lamp", "bookshelf", "toaster", "desk", "rug", "mirror", "pan", "heater", "vacuum cleaner")
BICYCLE_GOODS = ("city pedelec", "cargo pedelec", "folding pedelec", "mountain pedelec", "child seat", "pannier")
CITIES = ("Leeds", "Porto", "Ghent", "Graz", "Turin", "Lyon", "Malmo", "Brno", "Cork", "Bergen", "Vigo", "Kiel")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "the 3rd", "the 12th", "the 27th", "New Year's Eve")

_CHOICE = re.compile(r"\[([^\[\]]*)\]")


def expand(pattern: str, rng: random.Random) -> str:
    """`pattern` with one random alternative of each `[a|b]`."""
    while match := _CHOICE.search(pattern):
        pattern = pattern[: match.start()] + rng.choice(match[1].split("|")) + pattern[match.end() :]
    return pattern


def rows(domain: dict[str, tuple[str, ...]], per_intent: int, seed: int) -> list[Row]:
    """`per_intent` different rows per intent, in a random order that `seed` determines.

    Raises ValueError if the grammar has fewer rows.
    """
    rng = random.Random(seed)
    goods = BICYCLE_GOODS if domain is BICYCLE else GOODS
    requests = [row for intent in domain for row in _of_intent(domain, intent, goods, per_intent, rng)]
    rng.shuffle(requests)
    return requests


def _of_intent(
    domain: dict[str, tuple[str, ...]], intent: str, goods: tuple[str, ...], count: int, rng: random.Random
) -> Iterator[Row]:
    seen: set[str] = set()
    for _ in range(count * 50):
        if len(seen) == count:
            return
        text = _sentence(rng.choice(domain[intent]), goods, rng)
        if text not in seen:
            seen.add(text)
            yield Row(text, intent)
    if len(seen) < count:
        raise ValueError(f"{intent}: the grammar has only {len(seen)} rows, but {count} are needed")


def _sentence(pattern: str, goods: tuple[str, ...], rng: random.Random) -> str:
    core = expand(pattern, rng)
    question = core.split(" ", 1)[0] in {
        "where",
        "when",
        "how",
        "what",
        "is",
        "can",
        "do",
        "does",
        "which",
        "who",
        "will",
    }
    detail = rng.choice(DETAILS).format(
        n=rng.randrange(10_000, 99_999), d=rng.choice(DAYS), c=rng.choice(CITIES), g=rng.choice(goods),
        e=rng.randrange(9, 480),
    )  # fmt: skip
    opening = rng.choice(OPENINGS)
    core = core[0].upper() + core[1:] if not opening.endswith(",") else core
    return " ".join(part for part in (opening, core + ("?" if question else "."), detail, rng.choice(CLOSINGS)) if part)
