"""A word-level tokenizer over Glance's closed vocabulary, and the processor around it."""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import CLIPImageProcessorPil, LlavaProcessor, PreTrainedTokenizerFast

from saccade.glance.draw import IMAGE_SIZE, PATCH
from saccade.glance.vocabulary import words

PAD, EOS, UNK, IMAGE, USER, ASSISTANT = "<pad>", "</s>", "<unk>", "<image>", "<user>", "<assistant>"
SPECIALS = (PAD, EOS, UNK, IMAGE, USER, ASSISTANT)

# One turn is `<user><image>... question <assistant> answer </s>`; later turns simply follow.
CHAT_TEMPLATE = (
    "{% for m in messages %}"
    "{% if m['role'] == 'assistant' %}<assistant>{% else %}<user>{% endif %}"
    "{% if m['content'] is string %}{{ m['content'] }}"
    "{% else %}{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<image>{% elif c['type'] == 'text' %}{{ c['text'] }}{% endif %}"
    "{% endfor %}{% endif %}"
    "{% if m['role'] == 'assistant' %}</s>{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
PIXEL_MEAN = PIXEL_STD = 0.5


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Build the tokenizer: one token per word, letter and digit, in a stable order."""
    vocabulary = {token: i for i, token in enumerate((*SPECIALS, *words()))}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token=UNK))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    # Word-level tokens are joined by single spaces, exactly as the suite writes its answers.
    core.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token=EOS,
        pad_token=PAD,
        unk_token=UNK,
        additional_special_tokens=[IMAGE, USER, ASSISTANT],
        chat_template=CHAT_TEMPLATE,
        padding_side="left",
        model_max_length=4096,
        clean_up_tokenization_spaces=False,
    )


def build_processor(image_size: int = IMAGE_SIZE, patch: int = PATCH) -> LlavaProcessor:
    """Build the processor: any RGB image becomes one `image_size` square."""
    images = CLIPImageProcessorPil(
        size={"shortest_edge": image_size},
        crop_size={"height": image_size, "width": image_size},
        image_mean=[PIXEL_MEAN] * 3,
        image_std=[PIXEL_STD] * 3,
    )
    return LlavaProcessor(
        images,
        build_tokenizer(),
        patch_size=patch,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )
